package wireguard

import "time"

// A peer has up to three keypairs (section 6.3). We send with current. previous is the current one
// before that: messages under it may still arrive. next comes from a handshake that the peer
// initiated. We do not send with next before the peer has, because until then the peer may not have
// received our response.

// addAsInitiator makes k, from a handshake that we initiated, the current keypair. It reports false
// if k is stale.
func (d *Device) addAsInitiator(k *keypair) bool {
	p := k.peer
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.dropIfStale(k) {
		return false
	}
	old := p.current.Load()
	if p.next != nil {
		// Both sides initiated a handshake at the same time. The peer may send with either keypair.
		d.dropKeypair(old)
		old, p.next = p.next, nil
	}
	d.dropKeypair(p.previous)
	p.previous = old
	p.current.Store(k)
	p.handshakeTime.Store(time.Now().UnixNano())
	return true
}

// addAsResponder makes k, from a handshake that the peer initiated, the next keypair. It reports
// false if k is stale.
func (d *Device) addAsResponder(k *keypair) bool {
	p := k.peer
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.dropIfStale(k) {
		return false
	}
	d.dropKeypair(p.next)
	p.next = k
	p.handshakeTime.Store(time.Now().UnixNano())
	return true
}

// confirm records that a message under k was authenticated. If k was the next keypair, it becomes
// the current one: the message confirms that the peer has our response.
func (d *Device) confirm(k *keypair) {
	p := k.peer
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next != k {
		return
	}
	d.dropKeypair(p.previous)
	p.previous, p.next = p.current.Load(), nil
	p.current.Store(k)
	d.request(p, reqConfirmed|reqSendStaged)
}

// dropIfStale drops a new keypair, and reports true, if the peer was removed or our static key
// replaced during the handshake. p.mu is held. Both of these happen before dropKeypairs takes p.mu;
// therefore a stale keypair is found either here or there.
func (d *Device) dropIfStale(k *keypair) bool {
	if !k.peer.removed.Load() && k.self == d.self.Load() {
		return false
	}
	d.dropKeypair(k)
	return true
}

// dropKeypair ends the use of k and frees its receiver index. k may be nil.
func (d *Device) dropKeypair(k *keypair) {
	if k == nil {
		return
	}
	k.state.Store(keypairDropped)
	d.indices.remove(k.localIndex, indexEntry{keypair: k})
}

// dropKeypairs drops all keypairs of p.
func (d *Device) dropKeypairs(p *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.dropKeypair(p.current.Swap(nil))
	d.dropKeypair(p.previous)
	d.dropKeypair(p.next)
	p.previous, p.next = nil, nil
	p.handshakeTime.Store(0)
}

// closeKeypairs ends sending with all keypairs of p.
func (p *peer) closeKeypairs() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range []*keypair{p.current.Load(), p.next} {
		if k != nil {
			k.close()
		}
	}
}

// needsHandshake reports whether there is no keypair to send with, or it has to be replaced.
func (p *peer) needsHandshake(now int64) bool {
	k := p.current.Load()
	return k == nil || !k.canSend(now) || k.needsRekey(now)
}

// awaitsConfirmation reports whether we have answered an initiation of the peer and its first
// message under the next keypair is still to come. A closed next keypair does not count.
func (p *peer) awaitsConfirmation(now int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next != nil && p.next.canSend(now)
}
