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

// streamPiece is what a frame of a stream carries; with its count it fills 64 KiB.
const streamPiece = maxPiece - countSize

// flow is one connection of a bulk measurement.
type flow struct {
	conn net.Conn
	dir  Direction
	down atomic.Uint64 // bytes that have arrived here, compared
	up   atomic.Uint64 // bytes of which the service has said that they are there
}

// flows are all of them.
type flows struct {
	all  []*flow
	over atomic.Bool
	wg   sync.WaitGroup

	mu  sync.Mutex
	err error // the first
}

// bulk counts what passes in the time after the warming up. Only what has arrived counts, and it has been compared.
func bulk(ctx context.Context, s *Spec) (Figures, error) {
	fs := new(flows)
	defer fs.end()
	if err := fs.begin(ctx, s); err != nil {
		return nil, err
	}
	if err := resetPeaks(s.PIDs); err != nil {
		return nil, err
	}
	if err := wait(ctx, s.warmup()); err != nil {
		return nil, err
	}
	before, err := costsOf(s.PIDs)
	if err != nil {
		return nil, err
	}
	start, counted := time.Now(), fs.counts()
	if err := wait(ctx, s.Duration); err != nil {
		return nil, err
	}
	took, arrived := time.Since(start), fs.counts()
	for sum(arrived) == sum(counted) && took < handshakeLimit && !fs.broken() { // slow is not broken
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
		took, arrived = time.Since(start), fs.counts()
	}
	after, err := costsOf(s.PIDs)
	if err != nil {
		return nil, err
	}
	if err := fs.end(); err != nil {
		return nil, err
	}
	total, stalled := sum(arrived)-sum(counted), 0
	for i := range arrived {
		if arrived[i] == counted[i] {
			stalled++
		}
	}
	if total == 0 {
		return nil, fmt.Errorf("no byte arrived in %v", took)
	}
	f := Figures{"mbps": float64(total) * 8 / 1e6 / took.Seconds(), "stalled": float64(stalled)}
	if len(s.PIDs) > 0 {
		f["cpu_s_per_gb"] = (after.cpu - before.cpu).Seconds() / (float64(total) / 1e9)
		f["peak_mb"] = float64(after.peak) / 1e6
	}
	return f, nil
}

// begin connects and starts all flows.
func (fs *flows) begin(ctx context.Context, s *Spec) error {
	for range s.Conns {
		c, err := s.Proxy.persist(ctx, s.Target)
		if err != nil {
			return err
		}
		f := &flow{conn: c, dir: s.Direction}
		fs.all = append(fs.all, f)
		size := streamPiece
		if s.Direction == Up {
			size = 0
		}
		if _, err := c.Write(request(wantStream, size)); err != nil {
			return err
		}
	}
	for _, f := range fs.all {
		fs.wg.Go(func() { fs.note(f.receive()) })
		if f.dir != Down {
			fs.wg.Go(func() { fs.note(f.send()) })
		}
	}
	return nil
}

// note keeps the first error before the end, and that of spoilt bytes whenever it comes.
func (fs *flows) note(err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.err == nil && (!fs.over.Load() || errors.Is(err, errSpoilt)) {
		fs.err = err
	}
}

func (fs *flows) broken() bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.err != nil
}

// end may be called twice. It returns what went wrong before.
func (fs *flows) end() error {
	fs.over.Store(true)
	for _, f := range fs.all {
		f.conn.Close()
	}
	fs.wg.Wait()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.err
}

func (fs *flows) counts() []uint64 {
	n := make([]uint64, len(fs.all))
	for i, f := range fs.all {
		n[i] = f.down.Load() + f.up.Load()
	}
	return n
}

func sum(counts []uint64) (total uint64) {
	for _, n := range counts {
		total += n
	}
	return total
}

func (f *flow) receive() error {
	in := frames{size: streamPiece}
	if f.dir == Up {
		in.size = 0
	}
	b := make([]byte, 256<<10)
	for {
		n, err := f.conn.Read(b)
		if err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
		arrived, err := in.feed(b[:n])
		if err != nil {
			return err
		}
		f.down.Add(arrived)
		f.up.Store(in.counted)
	}
}

func (f *flow) send() error {
	for offset := uint64(0); ; offset += maxPiece {
		if _, err := f.conn.Write(piece(offset, maxPiece)); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
