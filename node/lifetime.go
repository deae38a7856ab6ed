package node

import (
	"context"
	"sync"
	"time"
)

// lifetime is the life of an object with a Close method: it refuses new work once Close has begun,
// cancels the work in progress, and waits for it. Make it with newLifetime.
type lifetime struct {
	// ctx is done as soon as Close has begun. Contexts of single calls derive from it.
	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once

	mu sync.Mutex // excludes wg.Add after Close has begun to wait
	wg sync.WaitGroup
}

// newLifetime returns a lifetime that ends with close, or is canceled with parent.
func newLifetime(parent context.Context) *lifetime {
	ctx, cancel := context.WithCancel(parent)
	return &lifetime{ctx: ctx, cancel: cancel}
}

func (l *lifetime) isClosed() bool { return l.ctx.Err() != nil }

// begin adds the caller to the work that close waits for. It reports false if the lifetime is over;
// otherwise the caller must call done.
func (l *lifetime) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed() {
		return false
	}
	l.wg.Add(1)
	return true
}

// done ends what begin has begun.
func (l *lifetime) done() { l.wg.Done() }

// spawn runs f in a goroutine that close waits for. It reports false, and does not run f, if the
// lifetime is over.
func (l *lifetime) spawn(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed() {
		return false
	}
	l.wg.Go(f)
	return true
}

// withTimeout returns a context for one call, which ends after d or with the lifetime.
func (l *lifetime) withTimeout(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(l.ctx, d)
}

// close ends the lifetime, has shutDown close what the object holds, and waits for all work.
// Further calls only wait.
func (l *lifetime) close(shutDown func()) {
	l.once.Do(func() {
		l.mu.Lock()
		l.cancel()
		l.mu.Unlock()
		shutDown()
	})
	l.wg.Wait()
}

// isClosed reports whether c is closed; nothing is ever sent on it.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
