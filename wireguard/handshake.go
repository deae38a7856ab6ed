package wireguard

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tai64n"
)

// What loop does with the messages of a handshake: initiation.go and response.go make and read
// them.

// newEphemeral makes a key for one message.
func newEphemeral() *ecdh.PrivateKey {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(fmt.Sprintf("wireguard: making an ephemeral key: %v", err)) // only where FIPS 140 forbids the curve
	}
	return k
}

// newIndex picks an unused random receiver index in p's lane, enters it as of, and returns it.
func (d *Device) newIndex(p *peer, of owner) uint32 {
	d.lanes.enter(p)
	for {
		var b [4]byte
		rand.Read(b[:])
		n := d.lanes.index(binary.LittleEndian.Uint32(b[:]), p)
		if d.index.add(n, of) {
			return n
		}
	}
}

// shake begins a handshake with p.
func (d *Device) shake(p *peer, now int64) {
	d.cancel(p)
	local := d.newIndex(p, owner{peer: p})
	i, b, err := d.self.Load().newInitiation(p, local, newEphemeral(), tai64n.Now())
	if err != nil {
		d.index.remove(local, owner{peer: p})
		d.log.Debug("WireGuard handshake cannot begin", "peer", p.key, "err", err)
		p.retryAt = now + rekeyTimeout
		return
	}
	p.pending, p.began, p.retryAt = i, now, now+rekeyTimeout+jitter()
	p.attempts++
	p.cookies.AddMacs(b)
	d.post(0, p, [][]byte{b}, now)
	d.log.Debug("WireGuard handshake begins", "peer", p.key, "attempt", p.attempts)
}

// cancel forgets what waits for a response.
func (d *Device) cancel(p *peer) {
	if p.pending != nil {
		d.index.remove(p.pending.local, owner{peer: p})
		p.pending = nil
	}
	p.retryAt = 0
}

// readInitiation reads a first message and returns the peer that it comes from. Only the static key
// is read of a stranger's. Nothing has changed when it returns.
func (d *Device) readInitiation(id *identity, b []byte) (*received, *peer) {
	r, err := id.readStatic(b)
	if err != nil {
		return nil, nil
	}
	p, ok := d.peer(r.from)
	if !ok {
		return nil, nil
	}
	static, err := p.staticShared(id)
	if err != nil {
		return nil, nil
	}
	if err := r.readTimestamp(b, static); err != nil {
		return nil, nil
	}
	return r, p
}

// takeInitiation answers an initiation and returns the peer; nil if the message is refused.
func (d *Device) takeInitiation(b []byte, ep conn.Endpoint, now int64) *peer {
	id := d.self.Load()
	r, p := d.readInitiation(id, b)
	if p == nil || !r.stamp.After(p.newest) || p.lastTaken != 0 && now-p.lastTaken < minBetween {
		d.bogus.Add(1)
		return nil
	}
	local := d.newIndex(p, owner{})
	k, response, err := r.answer(p, id, local, newEphemeral(), now)
	if err != nil {
		d.index.remove(local, owner{})
		d.bogus.Add(1)
		return nil
	}
	d.index.set(local, owner{session: k})
	if !d.answered(k) {
		return nil
	}
	p.newest, p.lastTaken, p.derived = r.stamp, now, now
	p.waitForPeer(now)
	if p.roams.Load() || p.endpoint.Load() == nil {
		p.moved(ep)
	}
	p.received(now, len(b))
	p.cookies.AddMacs(response)
	d.post(0, p, [][]byte{response}, now)
	d.log.Debug("WireGuard handshake answered", "peer", p.key)
	return p
}

// takeResponse makes a session of what we began and returns the peer; nil if the message is
// refused.
func (d *Device) takeResponse(b []byte, ep conn.Endpoint, now int64) *peer {
	receiver := binary.LittleEndian.Uint32(b[responseReceiver:])
	p := d.index.get(receiver).peer
	if p == nil || p.pending == nil || p.pending.local != receiver {
		d.bogus.Add(1)
		return nil
	}
	k, err := p.pending.complete(b, now)
	if err != nil {
		d.bogus.Add(1)
		return nil
	}
	d.index.set(k.local, owner{session: k})
	p.pending, p.retryAt, p.attempts = nil, 0, 0
	if !d.derived(k) {
		return nil
	}
	p.derived = now
	if p.roams.Load() {
		p.moved(ep)
	}
	p.received(now, len(b))
	d.log.Debug("WireGuard handshake complete", "peer", p.key)
	return p
}
