package proxy

import (
	"container/list"
	"sync"
)

// gate holds the connections that have asked for nothing yet, or for nothing more: those in a handshake and those
// idle between HTTP requests. They cost memory and a descriptor and may be hostile, so their number is bounded. When a
// further one enters a full gate, the one that has been silent for longest has to go: a good client is through in
// milliseconds, so a flood evicts itself.
type gate struct {
	max int

	mu    sync.Mutex
	order list.List // of *conn, the one that was heard last at the end
}

// maxSpared connections in a row are spared because they wait for us. If there are more, one goes nevertheless.
const maxSpared = 16

// enter adds c at the end. It returns the connection that c displaces, or nil.
func (g *gate) enter(c *conn) (displaced *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.slot == nil {
		c.slot = g.order.PushBack(c)
	}
	if g.order.Len() <= g.max {
		return nil
	}
	return g.popLocked()
}

// leave removes c, which may have left before.
func (g *gate) leave(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.slot != nil {
		g.order.Remove(c.slot)
		c.slot = nil
	}
}

// renew takes that c has been heard.
func (g *gate) renew(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.slot != nil {
		g.order.MoveToBack(c.slot)
	}
}

// evictOldest removes and returns the connection that has been silent for longest, or nil.
func (g *gate) evictOldest() *conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.popLocked()
}

func (g *gate) popLocked() *conn {
	front := g.order.Front()
	if front == nil {
		return nil
	}
	for range maxSpared {
		// What it said may just not have been read yet, when there is so much to do.
		if !hasInput(front.Value.(*conn).Conn) {
			break
		}
		g.order.MoveToBack(front)
		front = g.order.Front()
	}
	c := g.order.Remove(front).(*conn)
	c.slot = nil
	return c
}
