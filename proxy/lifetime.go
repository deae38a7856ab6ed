package proxy

import (
	"context"
	"io"
	"sync"
	"time"
)

// lifetime holds what Close has to end: the listeners, the connections, and the goroutines that
// serve them.
type lifetime struct {
	// ctx is the parent of every context that the Server makes. end cancels it.
	ctx    context.Context
	cancel context.CancelFunc

	// wg is added to only after begin has returned true, or by a goroutine that wg already counts.
	// Therefore nothing is added once Close waits.
	wg sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	closers map[io.Closer]struct{}
}

func (l *lifetime) init() {
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.closers = make(map[io.Closer]struct{})
}

// begin makes Close wait for the caller until the caller calls wg.Done. After end it returns false
// and counts nothing.
func (l *lifetime) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.wg.Add(1)
	return true
}

// add registers c to be closed by end. After end it returns false, and the caller has to close c.
func (l *lifetime) add(c io.Closer) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.closers[c] = struct{}{}
	return true
}

func (l *lifetime) remove(c io.Closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.closers, c)
}

func (l *lifetime) ended() bool { return l.ctx.Err() != nil }

// sleep waits for d. It returns false if end was called before.
func (l *lifetime) sleep(d time.Duration) bool { return sleep(l.ctx, d) }

// sleep waits for d. It returns false if ctx was cancelled before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// end cancels ctx and closes everything that was added. It does not wait.
func (l *lifetime) end() {
	l.mu.Lock()
	open := l.closers
	l.closers = nil
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	for c := range open {
		c.Close()
	}
}
