package proxy

import (
	"net/netip"
	"sync"
	"time"

	"ginnel/internal/share"
)

// handshakeLimit bounds the connections that have no destination yet: those in a handshake, and
// those that are idle between HTTP requests. Each costs memory and a descriptor, and its client may
// be hostile.
//
// Over the bound, the accept loop waits first, so that further clients stay in the backlog of the
// listener: many clients may come at once, and on a busy machine a good client may be slow to
// speak. A handshake is evicted only after its client has been silent for longer than
// silenceLimit. That limit follows the time that successful handshakes take. Each eviction divides
// it by evictionDivisor, so that a flood of silent clients is soon evicted as fast as it arrives.
//
// The bound is shared by client address: the evicted connection belongs to the address that has
// the most.
type handshakeLimit struct {
	max        int           // connections
	maxSilence time.Duration // upper bound of silenceLimit

	mu           sync.Mutex
	silenceLimit time.Duration  // how long a client may be silent before it may be evicted
	handshakes   connsByAddress // the oldest is the one whose client has been silent for longest
	idle         connsByAddress // in the order in which they became idle
	roomc        chan struct{}  // capacity 1: holds an item when there may be room
}

// connsByAddress holds connections in order, grouped by the address of the client.
type connsByAddress struct {
	share.Table[netip.Prefix, *conn]
}

const (
	minSilence      = time.Millisecond // lower bound of silenceLimit
	usualDivisor    = 2                // silenceLimit is maxSilence divided by it while handshakes are fast
	handshakeFactor = 4                // silenceLimit is at least the time of a handshake times it
	evictionDivisor = 4
	decayDivisor    = 8 // a fast handshake removes this part of what silenceLimit has too much
)

// unreadInputDelay is the wait when all of the oldest clients have sent bytes that were not read
// yet.
const unreadInputDelay = 10 * time.Millisecond

// maxSpared is how many connections one call spares from eviction because they have unread input.
const maxSpared = 16

func (l *handshakeLimit) init(max int, maxSilence time.Duration) {
	l.max, l.maxSilence, l.silenceLimit = max, maxSilence, maxSilence/usualDivisor
	l.roomc = make(chan struct{}, 1)
}

// addHandshake adds c, whose handshake begins now.
func (l *handshakeLimit) addHandshake(c *conn, now time.Time) { l.add(c, &l.handshakes, now) }

// addIdle adds c, which waits for its next request or lingers before it is closed. Over the bound
// it removes and returns the connection that has been idle for longest, of the address that has
// the most idle ones; that may be c.
func (l *handshakeLimit) addIdle(c *conn, now time.Time) (evicted *conn) {
	l.add(c, &l.idle, now)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lenLocked() <= l.max {
		return nil
	}
	_, evicted, _ = l.idle.Greediest()
	takeLocked(evicted)
	return evicted
}

func (l *handshakeLimit) add(c *conn, list *connsByAddress, now time.Time) {
	source := share.SourceOf(addrPortOf(c.RemoteAddr()).Addr())
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.limitedIn != nil {
		return
	}
	list.Add(source, c)
	c.limitedIn, c.limitedSince, c.lastHeard = list, now, now
}

// remove removes c. It does nothing if c is not held.
func (l *handshakeLimit) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removeLocked(c)
}

func (l *handshakeLimit) removeLocked(c *conn) {
	if c.limitedIn == nil {
		return
	}
	takeLocked(c)
	l.signalRoom()
}

// handshakeDone removes c, whose handshake has succeeded.
func (l *handshakeLimit) handshakeDone(c *conn, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.limitedIn == &l.handshakes {
		l.adaptLocked(now.Sub(c.limitedSince))
	}
	l.removeLocked(c)
}

// adaptLocked adapts silenceLimit to the duration of a successful handshake.
func (l *handshakeLimit) adaptLocked(took time.Duration) {
	want := min(max(handshakeFactor*took, l.maxSilence/usualDivisor), l.maxSilence)
	if want > l.silenceLimit {
		l.silenceLimit = min(2*l.silenceLimit, want)
	} else {
		l.silenceLimit -= (l.silenceLimit - want) / decayDivisor
	}
}

// heard notes that the client of c has sent something.
func (l *handshakeLimit) heard(c *conn, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.limitedIn != nil {
		heardLocked(c, now)
	}
}

func heardLocked(c *conn, now time.Time) {
	c.lastHeard = now
	c.limitedIn.Renew(c)
}

// makeRoom checks the bound. Over it, it returns either a connection to close, which it has
// removed, or how long the caller has to wait on roomc before it calls again. Within the bound
// both are zero.
func (l *handshakeLimit) makeRoom(now time.Time) (evicted *conn, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lenLocked() <= l.max {
		l.signalRoom() // another accept loop may wait too
		return nil, 0
	}
	if c := l.idleToEvictLocked(); c != nil {
		takeLocked(c)
		return c, 0
	}
	for range maxSpared {
		c := l.mostSilentLocked()
		if left := l.silenceLimit - now.Sub(c.lastHeard); left > 0 {
			return nil, left
		}
		if !hasInput(c.Conn) {
			l.silenceLimit = max(l.silenceLimit/evictionDivisor, minSilence)
			takeLocked(c)
			return c, 0
		}
		heardLocked(c, now)
	}
	return nil, unreadInputDelay
}

// idleToEvictLocked returns the idle connection to evict before any handshake, because its client
// can connect again. It returns nil if there is none, or if another address holds several
// handshakes, and more of them than the greediest address holds idle connections.
func (l *handshakeLimit) idleToEvictLocked() *conn {
	idleSource, idle, ok := l.idle.Greediest()
	source, _, _ := l.handshakes.Greediest()
	most := l.handshakes.Count(source)
	if !ok || most > 1 && source != idleSource && most > l.idle.Count(idleSource) {
		return nil
	}
	return idle
}

// mostSilentLocked returns the handshake whose client has been silent for longest, of the address
// that has the most handshakes; nil if there is none.
func (l *handshakeLimit) mostSilentLocked() *conn {
	_, c, _ := l.handshakes.Greediest()
	return c
}

// evictOldest removes and returns a connection so that its descriptor can be used: the one that has
// been idle for longest, otherwise the handshake that has been silent for longest. It returns nil
// if there is neither.
func (l *handshakeLimit) evictOldest(now time.Time) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.idleToEvictLocked()
	if c == nil {
		c = l.mostSilentLocked()
		for range maxSpared {
			if c == nil || !hasInput(c.Conn) {
				break
			}
			heardLocked(c, now)
			c = l.mostSilentLocked()
		}
	}
	takeLocked(c)
	return c
}

func (l *handshakeLimit) lenLocked() int { return l.handshakes.Len() + l.idle.Len() }

// signalRoom wakes one goroutine that waits on roomc.
func (l *handshakeLimit) signalRoom() {
	select {
	case l.roomc <- struct{}{}:
	default:
	}
}

// takeLocked takes c out of the list that holds it, without a signal. c may be nil.
func takeLocked(c *conn) {
	if c != nil {
		c.limitedIn.Remove(c)
		c.limitedIn = nil
	}
}
