package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// streamPiece is the number of pattern bytes in a frame of a stream. With its count the frame has
// 64 KiB.
const streamPiece = maxPiece - countSize

// flow is one connection of a bulk measurement.
type flow struct {
	conn net.Conn
	dir  Direction
	down atomic.Uint64 // bytes received here and verified
	up   atomic.Uint64 // bytes that the service has confirmed
}

// flows are all connections of a bulk measurement.
type flows struct {
	all  []*flow
	over atomic.Bool
	wg   sync.WaitGroup

	mu  sync.Mutex
	err error // the first
}

// bulk counts the bytes that arrive after the warm-up. Only bytes that have been received and
// verified count.
func bulk(ctx context.Context, s *Spec) (Figures, error) {
	beside, err := openExchanges(ctx, s)
	if err != nil {
		return nil, err
	}
	defer beside.close()
	fs := new(flows)
	defer fs.end()
	if err := fs.begin(ctx, s); err != nil {
		return nil, err
	}
	if r := s.Rival; r != nil {
		if err := fs.begin(ctx, &Spec{Proxy: r.Proxy, Target: r.Target, Conns: 1, Direction: s.Direction}); err != nil {
			return nil, fmt.Errorf("starting the rival: %w", err)
		}
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
	beside.begin()
	w, err := fs.watch(ctx, s.Duration)
	if err != nil {
		return nil, err
	}
	after, err := costsOf(s.PIDs)
	if err != nil {
		return nil, err
	}
	f := make(Figures)
	if err := beside.end(f); err != nil {
		return nil, err
	}
	if err := fs.end(); err != nil {
		return nil, err
	}
	own := w.arrived[:s.Conns]
	if sum(own) == 0 {
		return nil, fmt.Errorf("no byte arrived in %v", w.took)
	}
	w.figures(f, s)
	if len(s.PIDs) > 0 {
		f["cpu_s_per_gb"] = (after.cpu - before.cpu).Seconds() / (float64(sum(own)) / 1e9)
		f["peak_mb"] = float64(after.peak) / 1e6
	}
	return f, nil
}

// window is what arrived during a measurement.
type window struct {
	arrived []uint64 // bytes of each flow; the rival is last
	took    time.Duration
}

// watch counts what arrives during d. If nothing arrives, it waits longer, because a slow program
// is not a failed one.
func (fs *flows) watch(ctx context.Context, d time.Duration) (w window, err error) {
	start, counted := time.Now(), fs.counts()
	for step := d; ; step = 10 * time.Millisecond {
		if err := wait(ctx, step); err != nil {
			return w, err
		}
		w = window{arrived: fs.counts(), took: time.Since(start)}
		for i := range w.arrived {
			w.arrived[i] -= counted[i]
		}
		if sum(w.arrived) > 0 || w.took >= handshakeLimit || fs.broken() {
			return w, nil
		}
	}
}

// figures adds the figures of the flows.
func (w *window) figures(f Figures, s *Spec) {
	own := w.arrived[:s.Conns]
	f["mbps"] = w.mbps(own)
	stalled := 0
	for _, n := range own {
		if n == 0 {
			stalled++
		}
	}
	f["stalled"] = float64(stalled)
	if s.Conns > 1 {
		f["least_percent"] = 100 * float64(slices.Min(own)) / float64(sum(own))
	}
	if s.Rival != nil {
		rival := w.arrived[s.Conns:]
		f["rival_mbps"] = w.mbps(rival)
		f["rival_percent"] = 100 * float64(sum(rival)) / float64(sum(w.arrived))
	}
}

func (w *window) mbps(arrived []uint64) float64 {
	return float64(sum(arrived)) * 8 / 1e6 / w.took.Seconds()
}

// begin opens the connections and starts the flows on them.
func (fs *flows) begin(ctx context.Context, s *Spec) error {
	earlier := len(fs.all)
	for range s.Conns {
		c, err := s.Proxy.dialRetry(ctx, s.Target)
		if err != nil {
			return err
		}
		fs.all = append(fs.all, &flow{conn: c, dir: s.Direction})
		size := streamPiece
		if s.Direction == Up {
			size = 0
		}
		if _, err := c.Write(request(wantStream, s.Proxy.Congestion, size)); err != nil {
			return err
		}
	}
	for _, f := range fs.all[earlier:] {
		fs.wg.Go(func() { fs.note(f.receive()) })
		if f.dir != Down {
			fs.wg.Go(func() { fs.note(f.send()) })
		}
	}
	return nil
}

// note keeps the first error before the end. Corrupt bytes are kept even if they are found later.
func (fs *flows) note(err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.err == nil && (!fs.over.Load() || errors.Is(err, errCorrupt)) {
		fs.err = err
	}
}

func (fs *flows) broken() bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.err != nil
}

// end closes the connections and returns the first error. It may be called twice.
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
