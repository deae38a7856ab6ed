package transport

import (
	"sync"
	"time"

	"ginnel/internal/key"
)

// WireGuard works on the handshakes of a peer in several goroutines at once. When both sides have begun one, and the other's
// beginning arrives together with its answer to ours, they get into each other's way: what comes out is a session that only
// one side has, and nothing passes until that is noticed, 15 seconds later. So the second of two such messages that follow
// each other closely is held back until the first is dealt with.

const (
	handshakeTime = 20 * time.Millisecond // that one message of a handshake takes WireGuard, on a busy machine

	// holdEvery bounds what a peer can make of it: while a message is held, nothing else comes from its relay.
	holdEvery = time.Second
)

// The message types and sizes of WireGuard's handshake.
const (
	wireGuardInitiation, initiationLen = 1, 148
	wireGuardResponse, responseLen     = 2, 92
)

func isHandshake(b []byte) bool {
	return len(b) == initiationLen && b[0] == wireGuardInitiation || len(b) == responseLen && b[0] == wireGuardResponse
}

// handshakes knows when messages of handshakes came from a peer by its relay, where they meet: before two peers have spoken
// there is no other way.
type handshakes struct {
	mu    sync.Mutex
	heard time.Time // the latest, or when it is let through
	held  time.Time // when one was held back for the last time
}

// next takes a message that has arrived and returns for how long to hold it back.
func (h *handshakes) next(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait := h.heard.Add(handshakeTime).Sub(now)
	if wait <= 0 || wait > handshakeTime || now.Sub(h.held) < holdEvery {
		h.heard = now
		return 0
	}
	h.held, h.heard = now, now.Add(wait)
	return wait
}

func (h *handshakes) last() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.heard
}

// holdHandshake waits for as long as a message from e has to be held back.
func (c *Conn) holdHandshake(e *endpoint) {
	wait := e.handshakes.next(time.Now())
	if wait == 0 {
		return
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.closec:
	}
}

// InHandshake reports whether a message of a handshake has come from a peer by its relay just now, with which WireGuard may
// not be done.
func (c *Conn) InHandshake(k key.NodePublic) bool {
	e := c.endpointOf(k)
	return e != nil && time.Since(e.handshakes.last()) < handshakeTime
}
