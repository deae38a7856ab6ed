package relay

import (
	"context"
	"sync"
	"time"
)

// cancels makes the contexts of blocking calls that an object makes on its own account, and ends
// them when the object is closed.
type cancels struct {
	mu     sync.Mutex
	closed bool
	next   int
	funcs  map[int]context.CancelFunc
}

// context returns a context that ends after limit, by release, or with the object.
func (c *cancels) context(limit time.Duration) (ctx context.Context, release func()) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		cancel()
		return ctx, cancel
	}
	if c.funcs == nil {
		c.funcs = make(map[int]context.CancelFunc)
	}
	id := c.next
	c.next++
	c.funcs[id] = cancel
	return ctx, func() { c.remove(id); cancel() }
}

func (c *cancels) remove(id int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.funcs, id)
}

// close ends all contexts, those still to be made included.
func (c *cancels) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, cancel := range c.funcs {
		cancel() // only marks the context; nothing waits
	}
	clear(c.funcs)
}
