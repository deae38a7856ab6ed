package transport

import (
	"bytes"
	"slices"
	"sync"
	"time"
)

// Two nodes that learn of each other at the same moment begin a handshake at the same moment. Our
// WireGuard makes two sessions of that, either of which does. The stock one, which may be the
// peer's, works on the messages of one peer in several goroutines at once; when our beginning
// arrives together with our answer to its own, they get into each other's way, and what comes out
// is a session that only one side has. Nothing passes until that is noticed, 15 seconds later. And
// at best it answers, gives up its own beginning for that, and our answer is in vain.
//
// So a beginning that crosses ours is put aside. The answer to ours, if it comes, makes it void;
// otherwise it takes its turn, sooner on one side than on the other.

const (
	handshakeTime = 20 * time.Millisecond // that one message of a handshake takes WireGuard, on a busy machine

	// soon and late are after our beginning. In between the side that waits longer has the answer of
	// the other.
	soon = handshakeTime
	late = 4 * handshakeTime
)

// The message types of WireGuard, and the sizes of its handshake's.
const (
	wireGuardInitiation, initiationLen = 1, 148
	wireGuardResponse, responseLen     = 2, 92
	wireGuardData                      = 4
)

func isInitiation(b []byte) bool { return len(b) == initiationLen && b[0] == wireGuardInitiation }
func isResponse(b []byte) bool   { return len(b) == responseLen && b[0] == wireGuardResponse }

// handshakes knows what goes on with a peer, as far as its relay brings it, where beginnings meet:
// before two peers have spoken there is no other way.
type handshakes struct {
	mu    sync.Mutex
	began time.Time   // our latest beginning; zero once it is answered
	aside []byte      // its beginning that crossed ours; nil: none
	timer *time.Timer // runs while there is one
}

// sent takes a beginning of ours.
func (h *handshakes) sent(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.began = now
}

// crosses reports whether a beginning comes less than patience after ours. Then it puts it aside,
// and has turn called, in a goroutine of its own, when it has its turn.
func (h *handshakes) crosses(b []byte, patience time.Duration, now time.Time, turn func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait := h.began.Add(patience).Sub(now)
	if wait <= 0 || wait > patience {
		return false
	}
	if h.aside == nil {
		h.timer = time.AfterFunc(wait, turn)
	}
	h.aside = slices.Clone(b)
	return true
}

// answered takes an answer to ours, which makes what was put aside void.
func (h *handshakes) answered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.aside != nil {
		h.timer.Stop()
	}
	h.began, h.aside = time.Time{}, nil
}

// resume returns what was put aside, nil if it is void.
func (h *handshakes) resume() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.aside
	h.aside = nil
	return b
}

// passHandshake reports whether a message that a relay has brought is for WireGuard now.
func (c *Conn) passHandshake(e *endpoint, b []byte) bool {
	if isResponse(b) {
		e.handshakes.answered()
	}
	if !isInitiation(b) {
		return true
	}
	patience := soon
	if bytes.Compare(c.self.Load()[:], e.key[:]) < 0 {
		patience = late
	}
	return !e.handshakes.crosses(b, patience, time.Now(), func() { c.resumeHandshake(e) })
}

// resumeHandshake hands over the initiation that was held back; a timer calls it.
func (c *Conn) resumeHandshake(e *endpoint) {
	if b := e.handshakes.resume(); b != nil {
		c.takeRelayed(e, [][]byte{b})
	}
}
