package wireguard

import (
	"encoding/binary"
	"math"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// handshakeLoop is the state of runHandshakes.
type handshakeLoop struct {
	d         *Device
	s         sealer
	active    map[*peer]struct{} // peers with a timer that is set, or that the packet path may set
	nextCheck int64              // of the timers of all active peers; not after the first of them expires
}

func newHandshakeLoop(d *Device) *handshakeLoop {
	return &handshakeLoop{d: d, s: sealer{d: d}, active: make(map[*peer]struct{}), nextCheck: math.MaxInt64}
}

// runHandshakes is the goroutine that owns all handshakes and handles expired timers.
func (d *Device) runHandshakes() {
	l := newHandshakeLoop(d)
	timer := time.NewTimer(time.Hour)
	for {
		select {
		case <-d.requests.wakec:
		case <-timer.C:
		case <-d.closec:
			return
		}
		l.handleRequests()
		if now := d.now(); now >= l.nextCheck {
			l.checkAllTimers(now)
		}
		timer.Reset(time.Duration(max(l.nextCheck-d.now(), int64(time.Millisecond))))
	}
}

// handleRequests empties the queues of requests. Messages come before peers for two reasons. A
// message may bring the keypair that was requested. And starting a handshake makes the response to
// the previous initiation useless.
func (l *handshakeLoop) handleRequests() {
	messages, peers := l.d.requests.take()
	for _, m := range messages {
		l.handleMessage(m)
	}
	now := l.d.now()
	for _, p := range peers {
		l.handlePeer(p, now)
	}
	for _, m := range l.d.requests.takeCookies() {
		l.d.sendCookieReply(l.d.self.Load(), m.b, m.from)
	}
}

// handlePeer handles the request about p.
func (l *handshakeLoop) handlePeer(p *peer, now int64) {
	defer l.checkTimers(p, now)
	flags := p.requested.Swap(0)
	if flags&reqReset != 0 {
		l.reset(p, now)
	}
	if flags&reqConfirmed != 0 && !p.needsHandshake(now) {
		l.d.cancelInitiation(p)
		p.attempts = 0
	}
	if p.removed.Load() {
		return
	}
	if flags&reqSendStaged != 0 {
		l.s.sendStaged(p, now)
	}
	if (flags&reqHandshake != 0 || flags&reqReset != 0 && p.hasStaged()) && p.needsHandshake(now) {
		l.startHandshake(p, now)
	}
}

// reset cancels our initiation to p, and lets the next handshake start before Rekey-Timeout has
// passed. Exception: if we have answered an initiation since the reset was requested, Rekey-Timeout
// stays in force, because the peer is about to use that keypair.
func (l *handshakeLoop) reset(p *peer, now int64) {
	l.d.cancelInitiation(p)
	if !p.awaitsConfirmation(now) {
		p.lastSentHandshake = 0
	}
}

// startHandshake sends an initiation to p. Within Rekey-Timeout of the last handshake, whichever
// side initiated it, the initiation is delayed until then.
func (l *handshakeLoop) startHandshake(p *peer, now int64) {
	switch {
	case p.lastSentHandshake == 0 || now-p.lastSentHandshake >= rekeyTimeout:
		p.attempts = 0
		l.d.sendInitiation(p, now)
	case p.retransmitHandshakeAt == 0:
		p.attempts, p.retransmitHandshakeAt = 0, p.lastSentHandshake+rekeyTimeout
	}
}

// handleMessage handles an admitted message.
func (l *handshakeLoop) handleMessage(m handshakeMessage) {
	d, now := l.d, l.d.now()
	switch messageType(m.b) {
	case typeCookieReply:
		l.handleCookieReply(m.b)
	case typeInitiation:
		if p := d.handleInitiation(m.b, m.from, now); p != nil {
			l.checkTimers(p, now)
		}
	case typeResponse:
		// The peer does not send with the new keypair before it has received a message under it.
		// Without a staged packet, a keepalive is that message.
		if p := d.handleResponse(m.b, m.from, now); p != nil && !l.s.sendStaged(p, now) {
			l.s.sendKeepalive(p, now)
		}
	}
}

// handleCookieReply stores the cookie of a peer under load. The next handshake message to the peer
// then has a MAC2. A cookie reply changes neither the endpoint nor a timer.
func (l *handshakeLoop) handleCookieReply(b []byte) {
	var reply device.MessageCookieReply
	binary.Decode(b, binary.LittleEndian, &reply) // b has the right length
	e := l.d.indices.get(reply.Receiver)
	p := e.peer
	if e.keypair != nil {
		p = e.keypair.peer
	}
	if p == nil || !p.cookies.ConsumeReply(&reply) {
		l.d.bogus.Add(1)
	}
}

// checkAllTimers handles the expired timers of all active peers.
func (l *handshakeLoop) checkAllTimers(now int64) {
	l.nextCheck = now + int64(time.Hour)
	for p := range l.active {
		l.checkTimers(p, now)
	}
}
