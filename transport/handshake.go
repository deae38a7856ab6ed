package transport

import (
	"bytes"
	"slices"
	"sync"
	"time"
)

// Two nodes that learn of each other at the same moment send a handshake initiation at the same
// moment. Our WireGuard makes two sessions of that, and either works. The stock implementation,
// which the peer may run, handles messages of one peer in several goroutines at once. If our
// initiation reaches it together with our response to its own, it can end up with a session that
// only one side has. No data passes then until WireGuard notices, 15 seconds later. In the best
// case it answers ours, drops its own initiation, and our response to that one is wasted.
//
// So an initiation that crosses ours is held back. The response to ours, if it comes, discards it;
// otherwise it is delivered later, sooner on one side than on the other.

const (
	handshakeTime = 20 * time.Millisecond // time that WireGuard needs for one message on a busy machine

	// shortHold and longHold count from our initiation. The side with longHold gets the response of
	// the other side in between.
	shortHold = handshakeTime
	longHold  = 4 * handshakeTime
)

// The message types of WireGuard, and the sizes of its handshake messages.
const (
	wireGuardInitiation, initiationLen = 1, 148
	wireGuardResponse, responseLen     = 2, 92
	wireGuardData                      = 4
)

func isInitiation(b []byte) bool { return len(b) == initiationLen && b[0] == wireGuardInitiation }
func isResponse(b []byte) bool   { return len(b) == responseLen && b[0] == wireGuardResponse }

// crossing detects initiations of one peer that cross ours, as far as they travel by its relay:
// before two peers have spoken there is no direct path.
type crossing struct {
	mu     sync.Mutex
	sentAt time.Time   // when our latest initiation left; zero once it is answered
	held   []byte      // the peer's initiation that is held back; nil: none
	timer  *time.Timer // runs while held is set
}

// sent notes that our initiation leaves.
func (c *crossing) sent(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sentAt = now
}

// hold reports whether the peer's initiation b arrives less than limit after ours. It then keeps a
// copy of b and calls deliver in a goroutine of its own at the end of the limit.
func (c *crossing) hold(b []byte, limit time.Duration, now time.Time, deliver func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := c.sentAt.Add(limit).Sub(now)
	if wait <= 0 || wait > limit {
		return false
	}
	if c.held == nil {
		c.timer = time.AfterFunc(wait, deliver)
	}
	c.held = slices.Clone(b)
	return true
}

// answered notes the response to our initiation, which discards the held one.
func (c *crossing) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != nil {
		c.timer.Stop()
	}
	c.sentAt, c.held = time.Time{}, nil
}

// release returns the held initiation, nil if it was discarded.
func (c *crossing) release() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.held
	c.held = nil
	return b
}

// passHandshake reports whether a message that a relay delivered goes to WireGuard now.
func (c *Conn) passHandshake(e *endpoint, b []byte) bool {
	if isResponse(b) {
		e.crossing.answered()
	}
	if !isInitiation(b) {
		return true
	}
	limit := shortHold
	if bytes.Compare(c.self.Load()[:], e.key[:]) < 0 {
		limit = longHold
	}
	return !e.crossing.hold(b, limit, time.Now(), func() { c.deliverHeld(e) })
}

// deliverHeld gives WireGuard the initiation that was held back. A timer calls it.
func (c *Conn) deliverHeld(e *endpoint) {
	if b := e.crossing.release(); b != nil {
		c.takeRelayed(e, [][]byte{b})
	}
}
