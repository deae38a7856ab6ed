package wireguard

import "time"

// A peer has three sessions at the most. By current we send. By previous messages may still come
// that were on their way when current came about. By next, whose handshake the peer began, we do
// not send before it has: until then it may not have our answer. (Section 6.3.)

// derived takes a session of a handshake that we began. It reports false if the session is over
// already.
func (d *Device) derived(k *keypair) bool {
	p := k.peer
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.over(k) {
		return false
	}
	old := p.current.Load()
	if p.next != nil {
		// Both sides have begun one. The peer may send by either.
		d.drop(old)
		old, p.next = p.next, nil
	}
	d.drop(p.previous)
	p.previous = old
	p.current.Store(k)
	p.handshaken.Store(time.Now().UnixNano())
	return true
}

// answered takes a session of a handshake that the peer began. It reports false if the session is
// over already.
func (d *Device) answered(k *keypair) bool {
	p := k.peer
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.over(k) {
		return false
	}
	d.drop(p.next)
	p.next = k
	p.handshaken.Store(time.Now().UnixNano())
	return true
}

// confirm takes that a message came by k: if it was the next session, it is the current one now.
func (d *Device) confirm(k *keypair) {
	p := k.peer
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next != k {
		return
	}
	d.drop(p.previous)
	p.previous, p.next = p.current.Load(), nil
	p.current.Store(k)
	d.ask(p, askConfirmed|askFlush)
}

// over drops a new session, and reports true, if the peer was removed or our key replaced during
// the handshake. Both happen before the peer's sessions are forgotten, which takes p.mu, so a
// session is either forgotten or found here. p.mu is held.
func (d *Device) over(k *keypair) bool {
	if !k.peer.removed.Load() && k.self == d.self.Load() {
		return false
	}
	d.drop(k)
	return true
}

// drop ends a session, if there is one.
func (d *Device) drop(k *keypair) {
	if k == nil {
		return
	}
	k.dropped.Store(true)
	d.index.remove(k.local, owner{session: k})
}

// forgetSessions ends all of p's.
func (d *Device) forgetSessions(p *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.drop(p.current.Swap(nil))
	d.drop(p.previous)
	d.drop(p.next)
	p.previous, p.next = nil, nil
	p.handshaken.Store(0)
}
