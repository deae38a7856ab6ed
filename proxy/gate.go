package proxy

import (
	"net/netip"
	"sync"
	"time"

	"ginnel/internal/share"
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
//
// Client addresses share the gate: what is evicted is of the address that has most.
type gate struct {
	max         int           // connections
	maxPatience time.Duration // which patience does not exceed

	mu         sync.Mutex
	patience   time.Duration // for how long a client may be silent
	handshakes gateQueue     // the one that has been silent for longest is the oldest
	idle       gateQueue     // in the order in which they became idle
	roomc      chan struct{} // capacity 1: has an item when there may be room
}

// gateQueue has the connections of each address.
type gateQueue struct {
	share.Table[netip.Prefix, *conn]
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
// returns the connection that has been idle for longest, of the address that has most of them. It
// may be c.
func (g *gate) enterIdle(c *conn, now time.Time) (displaced *conn) {
	g.add(c, &g.idle, now)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lenLocked() <= g.max {
		return nil
	}
	_, displaced, _ = g.idle.Greediest()
	removeLocked(displaced)
	return displaced
}

func (g *gate) add(c *conn, q *gateQueue, now time.Time) {
	source := share.SourceOf(addrPortOf(c.RemoteAddr()).Addr())
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.queue != nil {
		return
	}
	q.Add(source, c)
	c.queue, c.entered, c.heard = q, now, now
}

// leave removes c, which may have left before.
func (g *gate) leave(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(c)
}

func (g *gate) leaveLocked(c *conn) {
	if c.queue == nil {
		return
	}
	removeLocked(c)
	g.tellRoom()
}

// succeed removes c, whose handshake has ended well.
func (g *gate) succeed(c *conn, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.queue == &g.handshakes {
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
	if c.queue != nil {
		g.renewLocked(c, now)
	}
}

func (g *gate) renewLocked(c *conn, now time.Time) {
	c.heard = now
	c.queue.Renew(c)
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
	if c := g.idleFirstLocked(); c != nil {
		removeLocked(c)
		return c, 0
	}
	for range maxSpared {
		c := g.silentLocked()
		if left := g.patience - now.Sub(c.heard); left > 0 {
			return nil, left
		}
		if !hasInput(c.Conn) {
			g.patience = max(g.patience/impatience, minPatience)
			removeLocked(c)
			return c, 0
		}
		g.renewLocked(c, now)
	}
	return nil, roomCheck
}

// idleFirstLocked returns the idle connection that has to go before any handshake, nil if there is
// none: a client can open it again. Those of an address are kept while another address has more
// handshakes.
func (g *gate) idleFirstLocked() *conn {
	idleSource, idle, ok := g.idle.Greediest()
	source, _, _ := g.handshakes.Greediest()
	most := g.handshakes.Count(source)
	if !ok || most > 1 && source != idleSource && most > g.idle.Count(idleSource) {
		return nil
	}
	return idle
}

// silentLocked returns the handshake whose client has been silent for longest, of the address that
// has most; nil if there is none.
func (g *gate) silentLocked() *conn {
	_, c, _ := g.handshakes.Greediest()
	return c
}

// evictOldest removes and returns a connection for whose descriptor there is a better use: the one
// that has been idle for longest, or else the handshake that has been silent for longest. It
// returns nil if there is neither.
func (g *gate) evictOldest(now time.Time) *conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.idleFirstLocked()
	if c == nil {
		c = g.silentLocked()
		for range maxSpared {
			if c == nil || !hasInput(c.Conn) {
				break
			}
			g.renewLocked(c, now)
			c = g.silentLocked()
		}
	}
	removeLocked(c)
	return c
}

func (g *gate) lenLocked() int { return g.handshakes.Len() + g.idle.Len() }

// tellRoom wakes one of those that wait for room.
func (g *gate) tellRoom() {
	select {
	case g.roomc <- struct{}{}:
	default:
	}
}

// removeLocked takes c out, if it is not nil.
func removeLocked(c *conn) {
	if c != nil {
		c.queue.Remove(c)
		c.queue = nil
	}
}
