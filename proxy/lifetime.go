package proxy

import (
	"io"
	"sync"
	"time"
)

// lifetime is what Close must end: listeners, connections, and the goroutines that serve them.
type lifetime struct {
	donec chan struct{} // closed by end

	// wg is added to only by a caller that begin let in, or by a goroutine that wg counts already. So
	// nothing is added once Close waits.
	wg sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	closers map[io.Closer]struct{}
}

func (l *lifetime) init() {
	l.donec = make(chan struct{})
	l.closers = make(map[io.Closer]struct{})
}

// begin counts the caller as a goroutine that Close waits for, until it calls wg.Done. It reports
// false, and counts nothing, if the end has come.
func (l *lifetime) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.wg.Add(1)
	return true
}

// add has c closed at the end. It reports false, and does not keep c, if the end has come.
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

func (l *lifetime) ended() bool {
	select {
	case <-l.donec:
		return true
	default:
		return false
	}
}

// sleep reports whether d passed without the end having come.
func (l *lifetime) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.donec:
		return false
	}
}

// end closes what was added and lets nothing in any more. It does not wait.
func (l *lifetime) end() {
	l.mu.Lock()
	open := l.closers
	l.closers = nil
	if !l.closed {
		l.closed = true
		close(l.donec)
	}
	l.mu.Unlock()
	for c := range open {
		c.Close()
	}
}
