package load

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

// exchangeGap is the minimum time between two messages of a connection. Without it, exchanges on a
// short path would be a load themselves.
const exchangeGap = 10 * time.Millisecond

// exchanges are round trips on separate connections during a bulk transfer. On a long path one
// connection makes too few round trips for a percentile, so there are several.
type exchanges struct {
	conns []net.Conn
	wg    sync.WaitGroup
	stop  context.CancelFunc // nil before begin

	mu   sync.Mutex
	took []time.Duration
	err  error // the first
}

// openExchanges opens the connections and makes one round trip on each.
func openExchanges(ctx context.Context, s *Spec) (*exchanges, error) {
	e := new(exchanges)
	for i := range s.Beside {
		c, err := dialEcho(ctx, s)
		if err != nil {
			e.close()
			return nil, err
		}
		e.conns = append(e.conns, c)
		stop := bind(ctx, c)
		err = trip(c, uint64(i))
		stop()
		if err != nil {
			e.close()
			return nil, err
		}
	}
	return e, nil
}

// begin starts the round trips whose times are recorded.
func (e *exchanges) begin() {
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	for _, c := range e.conns {
		e.wg.Go(func() { e.repeat(ctx, c) })
	}
}

// repeat makes round trips until the context ends. A round trip that is unfinished then is recorded
// with its time so far. Otherwise the slowest ones would be missing.
func (e *exchanges) repeat(ctx context.Context, c net.Conn) {
	defer bind(ctx, c)()
	for number := uint64(0); ctx.Err() == nil; number++ {
		sent := time.Now()
		err := trip(c, number)
		took := time.Since(sent)
		e.mu.Lock()
		switch {
		case err == nil || ctx.Err() != nil && !errors.Is(err, errCorrupt):
			e.took = append(e.took, took)
		case e.err == nil:
			e.err = err
		}
		e.mu.Unlock()
		if err != nil || wait(ctx, exchangeGap-took) != nil {
			return
		}
	}
}

// end stops the exchanges and adds their figures.
func (e *exchanges) end(f Figures) error {
	e.close()
	if len(e.took) == 0 || e.err != nil {
		return e.err
	}
	f["beside_p50_ms"] = milliseconds(Percentile(e.took, 50))
	f["beside_p99_ms"] = milliseconds(Percentile(e.took, 99))
	f["beside_max_ms"] = milliseconds(slices.Max(e.took))
	return nil
}

// close may be called twice.
func (e *exchanges) close() {
	if e.stop != nil {
		e.stop()
	}
	e.wg.Wait()
	for _, c := range e.conns {
		c.Close()
	}
}
