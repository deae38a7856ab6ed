package wireguard

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"

	"github.com/flynn/noise"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tai64n"

	"ginnel/internal/key"
)

// The messages of a handshake (section 5.4). The exchange of keys in them is Noise_IKpsk2.

var suite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s)

const (
	prologue     = "WireGuard v1 zx2c4 Jason@zx2c4.com"
	pskPlacement = 2
)

// initiation is a handshake that we began.
type initiation struct {
	peer  *peer
	self  *identity
	local uint32
	state *noise.HandshakeState
}

func (id *identity) keypair() noise.DHKey {
	raw := id.private.Raw()
	return noise.DHKey{Private: raw[:], Public: id.public[:]}
}

// newInitiation begins a handshake with p, by the number local, and returns its first message without the MACs.
func (id *identity) newInitiation(p *peer, local uint32) (*initiation, []byte, error) {
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite, Random: rand.Reader, Pattern: noise.HandshakeIK, Initiator: true, Prologue: []byte(prologue),
		PresharedKey: p.psk.Load()[:], PresharedKeyPlacement: pskPlacement,
		StaticKeypair: id.keypair(), PeerStatic: p.key[:],
	})
	if err != nil {
		return nil, nil, err
	}
	stamp := tai64n.Now()
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, initiationLen), typeInitiation)
	b = binary.LittleEndian.AppendUint32(b, local)
	if b, _, _, err = state.WriteMessage(b, stamp[:]); err != nil {
		return nil, nil, err
	}
	return &initiation{peer: p, self: id, local: local, state: state}, b[:initiationLen], nil
}

// complete takes the response.
func (i *initiation) complete(b []byte, now int64) (*keypair, error) {
	_, send, recv, err := i.state.ReadMessage(nil, b[12:responseLen-macsLen])
	if err != nil {
		return nil, err
	}
	return &keypair{
		peer: i.peer, local: i.local, remote: binary.LittleEndian.Uint32(b[4:]), created: now, initiator: true,
		send: newAEAD(send.UnsafeKey()), recv: newAEAD(recv.UnsafeKey()),
	}, nil
}

// beginning is a handshake that somebody began with us.
type beginning struct {
	state *noise.HandshakeState
	from  key.NodePublic
	stamp tai64n.Timestamp
	index uint32 // theirs
}

var errShort = errors.New("wireguard: initiation is too short")

// readInitiation reads a first message.
func (id *identity) readInitiation(b []byte) (*beginning, error) {
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite, Random: rand.Reader, Pattern: noise.HandshakeIK, Prologue: []byte(prologue),
		PresharedKeyPlacement: pskPlacement, StaticKeypair: id.keypair(),
	})
	if err != nil {
		return nil, err
	}
	stamp, _, _, err := state.ReadMessage(nil, b[8:initiationLen-macsLen])
	if err != nil {
		return nil, err
	}
	static := state.PeerStatic()
	if len(stamp) != tai64n.TimestampSize || len(static) != key.Size {
		return nil, errShort
	}
	return &beginning{
		state: state, from: key.NodePublic(static), stamp: tai64n.Timestamp(stamp), index: binary.LittleEndian.Uint32(b[4:]),
	}, nil
}

// answer makes the session, and the response without the MACs.
func (g *beginning) answer(p *peer, local uint32, now int64) (*keypair, []byte, error) {
	if err := g.state.SetPresharedKey(p.psk.Load()[:]); err != nil {
		return nil, nil, err
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, responseLen), typeResponse)
	b = binary.LittleEndian.AppendUint32(b, local)
	b = binary.LittleEndian.AppendUint32(b, g.index)
	b, recv, send, err := g.state.WriteMessage(b, nil)
	if err != nil {
		return nil, nil, err
	}
	return &keypair{
		peer: p, local: local, remote: g.index, created: now,
		send: newAEAD(send.UnsafeKey()), recv: newAEAD(recv.UnsafeKey()),
	}, b[:responseLen], nil
}

// cookieReply makes the answer to a message of somebody who has to prove his address first.
func (id *identity) cookieReply(b []byte, ep conn.Endpoint) ([]byte, error) {
	reply, err := id.checker.CreateReply(b, binary.LittleEndian.Uint32(b[4:]), ep.DstToBytes())
	if err != nil {
		return nil, err
	}
	return binary.Append(make([]byte, 0, cookieLen), binary.LittleEndian, reply)
}

// readCookie reads such an answer.
func readCookie(b []byte) *device.MessageCookieReply {
	var reply device.MessageCookieReply
	binary.Decode(b, binary.LittleEndian, &reply) // b has the right length
	return &reply
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
	i, b, err := d.self.Load().newInitiation(p, local)
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

// takeInitiation answers one.
func (d *Device) takeInitiation(b []byte, ep conn.Endpoint, now int64) *peer {
	id := d.self.Load()
	g, err := id.readInitiation(b)
	if err != nil {
		d.bogus.Add(1)
		return nil
	}
	p, ok := d.peer(g.from)
	if !ok || !g.stamp.After(p.newest) || p.lastTaken != 0 && now-p.lastTaken < minBetween {
		d.bogus.Add(1)
		return nil
	}
	local := d.newIndex(p, owner{})
	k, response, err := g.answer(p, local, now)
	if err != nil {
		d.index.remove(local, owner{})
		d.bogus.Add(1)
		return nil
	}
	d.index.set(local, owner{session: k})
	p.newest, p.lastTaken, p.derived = g.stamp, now, now
	if p.roams.Load() || p.endpoint.Load() == nil {
		p.moved(ep)
	}
	p.received(now, len(b))
	d.answered(k)
	p.handshaken.Store(time.Now().UnixNano())
	p.cookies.AddMacs(response)
	d.post(0, p, [][]byte{response}, now)
	d.log.Debug("WireGuard handshake answered", "peer", p.key)
	return p
}

// takeResponse makes a session of what we began.
func (d *Device) takeResponse(b []byte, ep conn.Endpoint, now int64) *peer {
	p := d.index.get(binary.LittleEndian.Uint32(b[8:])).peer
	if p == nil || p.pending == nil || p.pending.local != binary.LittleEndian.Uint32(b[8:]) {
		d.bogus.Add(1)
		return nil
	}
	k, err := p.pending.complete(b, now)
	if err != nil || p.pending.self != d.self.Load() {
		d.bogus.Add(1)
		return nil
	}
	d.index.set(k.local, owner{session: k})
	p.pending, p.retryAt, p.attempts, p.derived = nil, 0, 0, now
	if p.roams.Load() {
		p.moved(ep)
	}
	p.received(now, len(b))
	d.derived(k)
	p.handshaken.Store(time.Now().UnixNano())
	d.log.Debug("WireGuard handshake complete", "peer", p.key)
	return p
}
