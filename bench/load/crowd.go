package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// crowdLimit bounds the time from the dial to the first answer.
const crowdLimit = 30 * time.Second

// crowd dials many connections at once. A connection counts as served once its first message has
// been answered. When every connection is served or has failed, those that are served make as many
// round trips as they can.
type crowd struct {
	spec   *Spec
	served atomic.Int64
	trips  atomic.Int64
	over   atomic.Bool
	begun  sync.WaitGroup // connections that are not yet served or failed
	wg     sync.WaitGroup

	mu  sync.Mutex
	err error // the first
}

func crowded(ctx context.Context, s *Spec) (Figures, error) {
	before, err := costsOf(s.PIDs)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	c := &crowd{spec: s}
	defer c.wg.Wait()
	defer stop()
	start, together := time.Now(), make(chan struct{})
	c.begun.Add(s.Conns)
	for i := range s.Conns {
		c.wg.Go(func() { c.join(ctx, uint64(i), together) })
	}
	c.begun.Wait()
	took := time.Since(start)
	served := c.served.Load()
	f := Figures{"served_percent": 100 * float64(served) / float64(s.Conns), "failed": float64(s.Conns) - float64(served),
		"served_s": took.Seconds()}
	close(together)
	if err := wait(ctx, s.warmup()); err != nil {
		return nil, err
	}
	begun, counted := time.Now(), c.trips.Load()
	if err := wait(ctx, s.Duration); err != nil {
		return nil, err
	}
	f["per_s"] = float64(c.trips.Load()-counted) / time.Since(begun).Seconds()
	if len(s.PIDs) > 0 && served > 0 {
		after, err := costsOf(s.PIDs)
		if err != nil {
			return nil, err
		}
		f["kb_per_conn"] = float64(after.now-before.now) / 1e3 / float64(served)
	}
	c.over.Store(true)
	stop()
	c.wg.Wait()
	if served == 0 || errors.Is(c.err, errCorrupt) {
		return nil, fmt.Errorf("%d of %d connections were served: %w", served, s.Conns, c.err)
	}
	return f, nil
}

// join runs one connection. It makes no further round trips until together is closed.
func (c *crowd) join(ctx context.Context, number uint64, together <-chan struct{}) {
	conn, err := c.first(ctx, number)
	if err == nil {
		c.served.Add(1)
		defer conn.Close()
	}
	c.note(err)
	c.begun.Done()
	if err != nil {
		return
	}
	<-together
	conn.SetDeadline(time.Time{})
	defer bind(ctx, conn)()
	for ; !c.over.Load() && ctx.Err() == nil; number++ {
		if err := trip(conn, number); err != nil {
			c.note(err)
			return
		}
		c.trips.Add(1)
	}
}

// first dials and makes the first round trip.
func (c *crowd) first(ctx context.Context, number uint64) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, crowdLimit)
	defer cancel()
	p := c.spec.Proxy
	conn, err := p.dialWithin(ctx, c.spec.Target, crowdLimit)
	if err != nil {
		return nil, err
	}
	stop := bind(ctx, conn)
	if _, err = conn.Write(request(wantEcho, p.Congestion, 0)); err == nil {
		err = trip(conn, number)
	}
	if stop(); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// note keeps the first error before the end. Corrupt bytes are kept even if they are found later.
func (c *crowd) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && (c.err == nil && !c.over.Load() || errors.Is(err, errCorrupt)) {
		c.err = err
	}
}
