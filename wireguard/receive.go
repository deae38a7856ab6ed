package wireguard

import (
	"encoding/binary"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
)

// receiver takes messages. One is used by one goroutine at a time.
type receiver struct {
	d    *Device
	from conn.Endpoint // of the messages
	now  int64
	nonce
	mac1 mac1

	packets [][]byte // of these messages, each behind the header of its message

	key   *keypair // of the last message
	bytes int      // of messages that came by it and are not yet counted
	data  bool     // one of them held a packet

	src  netip.Addr // of the last packet
	peer *peer      // whose that is
}

// receive takes messages of one sender. Any goroutine may call it.
func (d *Device) receive(messages [][]byte, from conn.Endpoint) {
	r := d.receivers.Get().(*receiver)
	r.from, r.now = from, d.now()
	for _, b := range messages {
		r.take(b)
	}
	r.account()
	r.key, r.src, r.from = nil, netip.Addr{}, nil // sessions and routes may change before it is used again
	if len(r.packets) > 0 {
		d.tun.Write(r.packets, headerLen) // fails only when the Tun is closed
		clear(r.packets)
		r.packets = r.packets[:0]
	}
	d.receivers.Put(r)
}

func (r *receiver) take(b []byte) {
	switch {
	case len(b) < headerLen+tagLen:
		r.d.bogus.Add(1)
	case messageType(b) == typeData:
		r.open(b)
	case !isHandshake(b):
		r.d.bogus.Add(1)
	default:
		r.takeHandshake(b)
	}
}

// open takes a message of a session.
func (r *receiver) open(b []byte) {
	k := r.keypair(binary.LittleEndian.Uint32(b[4:]))
	if k == nil {
		r.d.bogus.Add(1)
		return
	}
	plain, ok := k.open(b, &r.nonce)
	if !ok {
		r.d.bogus.Add(1)
		return
	}
	p := k.peer
	if p.current.Load() != k {
		r.d.confirm(k)
	}
	if p.roams.Load() {
		p.moved(r.from)
	}
	r.bytes += len(b)
	if len(plain) == 0 {
		return // a keepalive
	}
	r.data = true
	src, length, ok := source(plain)
	if !ok {
		r.d.foreign.Add(1)
		return
	}
	if src != r.src {
		r.src, r.peer = src, r.d.routes.lookup(src)
	}
	if r.peer != p {
		r.d.foreign.Add(1)
		return
	}
	r.packets = append(r.packets, b[:headerLen+length])
}

// keypair returns the session of that number, or nil.
func (r *receiver) keypair(number uint32) *keypair {
	k := r.key
	if k == nil || k.local != number {
		r.account()
		k = r.d.index.get(number).session
		r.key = k
	}
	if k == nil || k.dropped.Load() || r.now-k.created >= rejectAfter {
		return nil
	}
	return k
}

// account tells the peer of the last messages what came.
func (r *receiver) account() {
	k := r.key
	if k == nil || r.bytes == 0 {
		return
	}
	p := k.peer
	p.received(r.now, r.bytes)
	if r.data {
		p.receivedData(r.now)
	}
	// The session would end while the peer sends and we do not.
	if k.initiator && r.now-k.created >= rejectAfter-keepaliveIn-rekeyTimeout && !k.asked.Swap(true) {
		r.d.ask(p, askHandshake)
	}
	r.bytes, r.data = 0, false
}

// moved takes where a peer was heard from.
func (p *peer) moved(ep conn.Endpoint) {
	if old := p.endpoint.Load(); old != nil && *old == ep {
		return
	}
	p.endpoint.Store(&ep)
}
