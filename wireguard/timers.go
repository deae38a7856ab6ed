package wireguard

import (
	"math/rand/v2"
	"sync/atomic"
)

// timers are the times of section 6 that the packet path writes, on the device's clock; 0 means not
// set. The methods are named for the events that set and clear them; runHandshakes reads them and
// acts when they expire.
type timers struct {
	// newHandshakeAt is when a handshake starts because nothing came back for a packet we sent.
	newHandshakeAt atomic.Int64
	// sendKeepaliveAt is when a keepalive is sent because we sent nothing back for a packet.
	sendKeepaliveAt atomic.Int64
	// lastMessage is when the latest message was sent, or received and authenticated. The
	// persistent keepalive counts from it.
	lastMessage atomic.Int64
}

// authenticatedReceived records that a message of the peer was authenticated.
func (t *timers) authenticatedReceived(now int64) {
	t.lastMessage.Store(now)
	if t.newHandshakeAt.Load() != 0 {
		t.newHandshakeAt.Store(0)
	}
}

// dataReceived records that a message held a packet: it was not a keepalive.
func (t *timers) dataReceived(now int64) {
	if t.sendKeepaliveAt.Load() == 0 {
		t.sendKeepaliveAt.Store(now + keepaliveTimeout)
	}
}

// messageSent records that any message is sent to the peer.
func (t *timers) messageSent(now int64) {
	t.lastMessage.Store(now)
	if t.sendKeepaliveAt.Load() != 0 {
		t.sendKeepaliveAt.Store(0)
	}
}

// dataSent records that a message that holds a packet is sent.
func (t *timers) dataSent(now int64) {
	if t.newHandshakeAt.Load() == 0 {
		t.newHandshakeAt.Store(now + keepaliveTimeout + rekeyTimeout + jitter())
	}
}

// jitter returns a random delay, so that two sides do not retransmit at the same time again and
// again.
func jitter() int64 { return rand.Int64N(maxJitter) }

// timerCheckInterval is how often the timers of a peer with a keypair are read. The packet path
// sets newHandshakeAt and sendKeepaliveAt without waking runHandshakes, but at least
// keepaliveTimeout ahead. Therefore checks at this interval see them before they expire.
const timerCheckInterval = keepaliveTimeout

// checkTimers handles the expired timers of p and schedules the next check. A peer without timers
// leaves the lane that it had.
func (l *handshakeLoop) checkTimers(p *peer, now int64) {
	at := l.expireTimers(p, now)
	if at == 0 {
		delete(l.active, p)
		l.d.lanes.leave(p)
		return
	}
	l.active[p] = struct{}{}
	l.nextCheck = min(l.nextCheck, at)
}

// expireTimers handles the expired timers of p, and returns when the next check is due. 0 means
// that no timer can be set without a request.
func (l *handshakeLoop) expireTimers(p *peer, now int64) int64 {
	if p.removed.Load() {
		return 0
	}
	if p.retransmitHandshakeAt != 0 && now >= p.retransmitHandshakeAt {
		l.expiredRetransmitHandshake(p, now)
	}
	if at := p.newHandshakeAt.Load(); at != 0 && now >= at {
		p.newHandshakeAt.CompareAndSwap(at, 0)
		l.expiredNewHandshake(p, now)
	}
	if at := p.sendKeepaliveAt.Load(); at != 0 && now >= at {
		p.sendKeepaliveAt.CompareAndSwap(at, 0)
		l.expiredSendKeepalive(p, now)
	}
	if at := p.persistentKeepaliveAt(); at != 0 && now >= at {
		l.expiredPersistentKeepalive(p, now)
	}
	if p.lastKeypair != 0 && now >= p.lastKeypair+zeroKeysAfter {
		l.expiredZeroKeyMaterial(p)
	}
	return p.nextTimer(now)
}

// expiredRetransmitHandshake sends another initiation, because the last one had no response. After
// Rekey-Attempt-Time it gives up and discards the staged packets (section 6.4).
func (l *handshakeLoop) expiredRetransmitHandshake(p *peer, now int64) {
	if p.attempts < maxAttempts {
		l.d.sendInitiation(p, now)
		return
	}
	l.d.cancelInitiation(p)
	p.attempts = 0
	l.d.noRoom.Add(uint64(len(p.unstage())))
}

// expiredNewHandshake starts a handshake, because the peer sent nothing for too long after we sent
// a packet.
func (l *handshakeLoop) expiredNewHandshake(p *peer, now int64) {
	if p.initiation == nil {
		l.startHandshake(p, now)
	}
}

// expiredSendKeepalive sends a keepalive, because we sent nothing since a packet arrived.
func (l *handshakeLoop) expiredSendKeepalive(p *peer, now int64) { l.s.sendKeepalive(p, now) }

// expiredPersistentKeepalive sends a keepalive, or starts a handshake if there is no usable
// keypair.
func (l *handshakeLoop) expiredPersistentKeepalive(p *peer, now int64) {
	if !l.s.sendKeepalive(p, now) {
		l.startHandshake(p, now)
	}
}

// expiredZeroKeyMaterial drops the keypairs of a peer that has made no new one for three times
// Reject-After-Time (section 6.3).
func (l *handshakeLoop) expiredZeroKeyMaterial(p *peer) {
	p.lastKeypair = 0
	l.d.dropKeypairs(p)
}

// persistentKeepaliveAt returns when a persistent keepalive is due. It returns 0 if there is none,
// or while a handshake is running or scheduled. A peer without any message so far gets one at once.
func (p *peer) persistentKeepaliveAt() int64 {
	interval, last := p.keepalive.Load(), p.lastMessage.Load()
	switch {
	case interval <= 0 || p.retransmitHandshakeAt != 0:
		return 0
	case last == 0:
		return 1
	}
	return last + interval
}

// nextTimer returns when the timers of p have to be checked again, 0 if they do not.
func (p *peer) nextTimer(now int64) int64 {
	next := earliest(p.retransmitHandshakeAt, p.newHandshakeAt.Load(), p.sendKeepaliveAt.Load(), p.persistentKeepaliveAt())
	if p.lastKeypair != 0 {
		next = earliest(next, p.lastKeypair+zeroKeysAfter, now+timerCheckInterval)
	}
	return next
}

// earliest returns the earliest of the times that are set, 0 if none is.
func earliest(times ...int64) (first int64) {
	for _, at := range times {
		if at != 0 && (first == 0 || at < first) {
			first = at
		}
	}
	return first
}
