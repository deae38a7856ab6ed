package proxy

import (
	"container/list"
	"sync"
	"time"
)

// gate bounds the connections that have no destination: those in a handshake, and those that are
// idle between HTTP requests. Each costs memory and a descriptor, and its client may be hostile.
//
// Many clients may come at once, and a busy machine may keep a good client from speaking for a
// while. So a full gate first makes the accept loop wait, which leaves further clients in the
// backlog of the listener. A handshake is evicted for a new connection only if its client has been
// silent for longer than patience. Good clients set the patience: it follows the time that their
// handshakes take. Each eviction divides it by impatience, so a flood of silent clients soon evicts
// itself as fast as it comes.
type gate struct {
	max         int           // connections
	maxPatience time.Duration // which patience does not exceed

	mu         sync.Mutex
	patience   time.Duration // for how long a client may be silent
	handshakes list.List     // of *conn, the one that has been silent for longest at the front
	idle       list.List     // of *conn, in the order in which they became idle
	roomc      chan struct{} // capacity 1: has an item when there may be room
}

const (
	minPatience   = time.Millisecond
	usualPatience = 2 // the part of maxPatience that a gate has when handshakes are fast
	slowest       = 4 // patience is as many times what a handshake takes, if that is more
	impatience    = 4
	forgetting    = 8 // the part by which patience falls towards what a handshake calls for
)

// roomCheck is when a full gate is looked at again if its oldest client has spoken but was not read
// yet.
const roomCheck = 10 * time.Millisecond

// maxSpared is how many connections in a row are spared because they have input that was not read
// yet.
const maxSpared = 16

func (g *gate) init(max int, maxPatience time.Duration) {
	g.max, g.maxPatience, g.patience = max, maxPatience, maxPatience/usualPatience
	g.roomc = make(chan struct{}, 1)
}

// enter adds c, whose handshake begins now.
func (g *gate) enter(c *conn, now time.Time) { g.add(c, &g.handshakes, now) }

// enterIdle adds c, which waits for a request or is about to be closed. If the gate is full it
// returns the connection that has been idle for longest, which may be c.
func (g *gate) enterIdle(c *conn, now time.Time) (displaced *conn) {
	g.add(c, &g.idle, now)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lenLocked() <= g.max {
		return nil
	}
	return removeLocked(&g.idle, g.idle.Front())
}

func (g *gate) add(c *conn, l *list.List, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.slot != nil {
		return
	}
	c.slot, c.queue, c.entered, c.heard = l.PushBack(c), l, now, now
}

// leave removes c, which may have left before.
func (g *gate) leave(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(c)
}

func (g *gate) leaveLocked(c *conn) {
	if c.slot == nil {
		return
	}
	removeLocked(c.queue, c.slot)
	g.tellRoom()
}

// succeed removes c, whose handshake has ended well.
func (g *gate) succeed(c *conn, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.slot != nil && c.queue == &g.handshakes {
		g.learnLocked(now.Sub(c.entered))
	}
	g.leaveLocked(c)
}

// learnLocked adapts the patience to what a good client's handshake took.
func (g *gate) learnLocked(took time.Duration) {
	want := min(max(slowest*took, g.maxPatience/usualPatience), g.maxPatience)
	if want > g.patience {
		g.patience = min(2*g.patience, want)
	} else {
		g.patience -= (g.patience - want) / forgetting
	}
}

// renew notes that c has been heard.
func (g *gate) renew(c *conn, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.slot != nil {
		g.renewLocked(c, now)
	}
}

func (g *gate) renewLocked(c *conn, now time.Time) {
	c.heard = now
	c.queue.MoveToBack(c.slot)
}

// relieve makes room in a gate that is over its bound. It returns a connection that has to go, or
// for how long the caller has to wait for room unless roomc tells of some; both are zero when there
// is room.
func (g *gate) relieve(now time.Time) (displaced *conn, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lenLocked() <= g.max {
		g.tellRoom() // to others that wait
		return nil, 0
	}
	if front := g.idle.Front(); front != nil {
		return removeLocked(&g.idle, front), 0
	}
	for range maxSpared {
		c := g.handshakes.Front().Value.(*conn)
		if left := g.patience - now.Sub(c.heard); left > 0 {
			return nil, left
		}
		if !hasInput(c.Conn) {
			g.patience = max(g.patience/impatience, minPatience)
			return removeLocked(&g.handshakes, c.slot), 0
		}
		g.renewLocked(c, now)
	}
	return nil, roomCheck
}

// evictOldest removes and returns a connection for whose descriptor there is a better use: the one
// that has been idle for longest, or else the handshake that has been silent for longest. It
// returns nil if there is neither.
func (g *gate) evictOldest(now time.Time) *conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	if front := g.idle.Front(); front != nil {
		return removeLocked(&g.idle, front)
	}
	if g.handshakes.Len() == 0 {
		return nil
	}
	for range maxSpared {
		c := g.handshakes.Front().Value.(*conn)
		if !hasInput(c.Conn) {
			break
		}
		g.renewLocked(c, now)
	}
	return removeLocked(&g.handshakes, g.handshakes.Front())
}

func (g *gate) lenLocked() int { return g.handshakes.Len() + g.idle.Len() }

// tellRoom wakes one of those that wait for room.
func (g *gate) tellRoom() {
	select {
	case g.roomc <- struct{}{}:
	default:
	}
}

func removeLocked(l *list.List, e *list.Element) *conn {
	c := l.Remove(e).(*conn)
	c.slot, c.queue = nil, nil
	return c
}
