package wireguard

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tai64n"
)

// The device's side of a handshake, run by runHandshakes. The messages themselves are created and
// consumed in initiation.go and response.go, without a device.

// newEphemeral makes an ephemeral key. Each message needs a new one.
func newEphemeral() *ecdh.PrivateKey {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(fmt.Sprintf("wireguard: making an ephemeral key: %v", err)) // only where FIPS 140 mode forbids the curve
	}
	return k
}

// newIndex picks a random receiver index in p's lane that is not in use, enters it for e, and
// returns it.
func (d *Device) newIndex(p *peer, e indexEntry) uint32 {
	d.lanes.enter(p)
	for {
		var b [4]byte
		rand.Read(b[:])
		n := d.lanes.index(binary.LittleEndian.Uint32(b[:]), p)
		if d.indices.add(n, e) {
			return n
		}
	}
}

// sendInitiation starts a handshake with p, in place of one that is running.
func (d *Device) sendInitiation(p *peer, now int64) {
	d.cancelInitiation(p)
	local := d.newIndex(p, indexEntry{peer: p})
	i, b, err := d.self.Load().createInitiation(p, local, newEphemeral(), tai64n.Now())
	if err != nil {
		d.indices.remove(local, indexEntry{peer: p})
		d.log.Debug("WireGuard initiation not created", "peer", p.key, "err", err)
		p.retransmitHandshakeAt = now + rekeyTimeout
		return
	}
	p.initiation, p.lastSentHandshake, p.retransmitHandshakeAt = i, now, now+rekeyTimeout+jitter()
	p.attempts++
	p.cookies.AddMacs(b)
	d.sendMessages(0, p, [][]byte{b}, now)
	d.log.Debug("WireGuard initiation sent", "peer", p.key, "attempt", p.attempts)
}

// cancelInitiation ends the handshake that we initiated, if there is one, and its retransmission.
func (d *Device) cancelInitiation(p *peer) {
	if p.initiation != nil {
		d.indices.remove(p.initiation.localIndex, indexEntry{peer: p})
		p.initiation = nil
	}
	p.retransmitHandshakeAt = 0
}

// consumeInitiation decrypts an initiation and returns the peer that sent it, nil if there is no
// such peer or the message is not authentic. It changes no state of the device or the peer, except
// for the cached static-static secret.
func (d *Device) consumeInitiation(id *identity, b []byte) (*receivedInitiation, *peer) {
	r, err := id.consumeStatic(b)
	if err != nil {
		return nil, nil
	}
	p, ok := d.peer(r.static)
	if !ok {
		return nil, nil
	}
	secret, err := p.staticStatic(id)
	if err != nil {
		return nil, nil
	}
	if err := r.consumeTimestamp(b, secret); err != nil {
		return nil, nil
	}
	return r, p
}

// handleInitiation answers an initiation and returns the peer. It returns nil if the initiation is
// refused.
func (d *Device) handleInitiation(b []byte, from conn.Endpoint, now int64) *peer {
	id := d.self.Load()
	r, p := d.consumeInitiation(id, b)
	if p == nil || !r.timestamp.After(p.lastTimestamp) ||
		p.lastInitiationConsumption != 0 && now-p.lastInitiationConsumption < minInitiationInterval {
		d.bogus.Add(1)
		return nil
	}
	local := d.newIndex(p, indexEntry{}) // reserved: the keypair does not exist yet
	k, response, err := r.createResponse(p, id, local, newEphemeral(), now)
	if err != nil {
		d.indices.remove(local, indexEntry{})
		d.bogus.Add(1)
		return nil
	}
	d.indices.set(local, indexEntry{keypair: k})
	if !d.addAsResponder(k) {
		return nil
	}
	p.lastTimestamp, p.lastInitiationConsumption, p.lastKeypair = r.timestamp, now, now
	p.postponeHandshake(now)
	if p.roams.Load() || p.endpoint.Load() == nil {
		p.setEndpoint(from)
	}
	p.rx.Add(uint64(len(b)))
	p.authenticatedReceived(now)
	p.cookies.AddMacs(response)
	d.sendMessages(0, p, [][]byte{response}, now)
	d.log.Debug("WireGuard response sent", "peer", p.key)
	return p
}

// postponeHandshake delays the next initiation of ours by Rekey-Timeout, because we have just
// answered an initiation of the peer.
func (p *peer) postponeHandshake(now int64) {
	p.lastSentHandshake = now
	if p.retransmitHandshakeAt != 0 {
		p.retransmitHandshakeAt = now + rekeyTimeout + jitter()
	}
}

// handleResponse completes a handshake that we initiated and returns the peer. It returns nil if
// the response is refused.
func (d *Device) handleResponse(b []byte, from conn.Endpoint, now int64) *peer {
	receiver := binary.LittleEndian.Uint32(b[responseReceiver:])
	p := d.indices.get(receiver).peer
	if p == nil || p.initiation == nil || p.initiation.localIndex != receiver {
		d.bogus.Add(1)
		return nil
	}
	k, err := p.initiation.consumeResponse(b, now)
	if err != nil {
		d.bogus.Add(1)
		return nil
	}
	d.indices.set(k.localIndex, indexEntry{keypair: k})
	p.initiation, p.retransmitHandshakeAt, p.attempts = nil, 0, 0
	if !d.addAsInitiator(k) {
		return nil
	}
	p.lastKeypair = now
	if p.roams.Load() {
		p.setEndpoint(from)
	}
	p.rx.Add(uint64(len(b)))
	p.authenticatedReceived(now)
	d.log.Debug("WireGuard handshake complete", "peer", p.key)
	return p
}
