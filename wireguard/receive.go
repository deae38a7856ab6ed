package wireguard

import (
	"encoding/binary"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
)

// inbound handles the messages of one call of receive. One goroutine at a time uses it.
type inbound struct {
	d    *Device
	from conn.Endpoint // sender of the messages
	now  int64
	nonce
	mac1 mac1Checker

	packets [][]byte // decrypted packets, each after the header of its message

	keypair *keypair // of the last message
	bytes   int      // of messages under keypair that recordReceived has not seen yet
	data    bool     // at least one of them held a packet

	src     netip.Addr // source address of the last packet
	srcPeer *peer      // that src belongs to
}

// receive handles messages of one sender. Any goroutine may call it.
func (d *Device) receive(messages [][]byte, from conn.Endpoint) {
	in := d.inboundPool.Get().(*inbound)
	in.from, in.now = from, d.now()
	for _, b := range messages {
		in.handle(b)
	}
	in.recordReceived()
	// Keypairs and allowed IPs may change before in is used again.
	in.keypair, in.src, in.from = nil, netip.Addr{}, nil
	if len(in.packets) > 0 {
		d.tun.Write(in.packets, headerLen) // fails only if the Tun is closed
		clear(in.packets)
		in.packets = in.packets[:0]
	}
	d.inboundPool.Put(in)
}

func (in *inbound) handle(b []byte) {
	switch {
	case len(b) < headerLen+tagLen:
		in.d.bogus.Add(1)
	case messageType(b) == typeTransport:
		in.handleTransport(b)
	case !isHandshake(b):
		in.d.bogus.Add(1)
	default:
		in.admitHandshake(b)
	}
}

// handleTransport handles a transport data message.
func (in *inbound) handleTransport(b []byte) {
	k := in.lookupKeypair(binary.LittleEndian.Uint32(b[transportReceiver:]))
	if k == nil {
		in.d.bogus.Add(1)
		return
	}
	plain, ok := k.open(b, &in.nonce)
	if !ok {
		in.d.bogus.Add(1)
		return
	}
	p := k.peer
	if p.current.Load() != k {
		in.d.confirm(k)
	}
	if p.roams.Load() {
		p.setEndpoint(in.from)
	}
	in.bytes += len(b)
	if len(plain) == 0 {
		return // a keepalive
	}
	in.data = true
	src, length, ok := source(plain)
	if !ok {
		in.d.foreign.Add(1)
		return
	}
	if src != in.src {
		in.src, in.srcPeer = src, in.d.allowedIPs.lookup(src)
	}
	if in.srcPeer != p {
		in.d.foreign.Add(1)
		return
	}
	in.packets = append(in.packets, b[:headerLen+length])
}

// lookupKeypair returns the keypair of a receiver index, nil if there is none that may receive.
func (in *inbound) lookupKeypair(index uint32) *keypair {
	k := in.keypair
	if k == nil || k.localIndex != index {
		in.recordReceived()
		k = in.d.indices.get(index).keypair
		in.keypair = k
	}
	if k == nil || !k.canReceive(in.now) {
		return nil
	}
	return k
}

// recordReceived records the messages under in.keypair: once per run of them, because the counters
// and timers of a peer are shared memory.
func (in *inbound) recordReceived() {
	k := in.keypair
	if k == nil || in.bytes == 0 {
		return
	}
	p := k.peer
	p.rx.Add(uint64(in.bytes))
	p.authenticatedReceived(in.now)
	if in.data {
		p.dataReceived(in.now)
	}
	// An initiator that only receives has to start the next handshake too (section 6.2).
	if k.isInitiator && in.now-k.created >= rekeyOnReceiveAge && !k.rekeyRequested.Swap(true) {
		in.d.request(p, reqHandshake)
	}
	in.bytes, in.data = 0, false
}

// source returns the source address of an IP packet and the length that its header states. It
// reports false if the packet is malformed or truncated.
func source(packet []byte) (a netip.Addr, length int, ok bool) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		a, length = netip.AddrFrom4([4]byte(packet[12:16])), int(binary.BigEndian.Uint16(packet[2:]))
		return a, length, length >= 20 && length <= len(packet)
	case len(packet) >= 40 && packet[0]>>4 == 6:
		a, length = netip.AddrFrom16([16]byte(packet[8:24])), 40+int(binary.BigEndian.Uint16(packet[4:]))
		return a, length, length <= len(packet)
	}
	return netip.Addr{}, 0, false
}
