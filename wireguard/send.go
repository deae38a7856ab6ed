package wireguard

import (
	"encoding/binary"
	"math"
	"net/netip"
	"sync/atomic"
)

// pumpBatches batches are sent by a goroutine that has made a packet and finds more; the rest is
// left to transmit. It has something else to do, and may hold locks.
const pumpBatches = 4

// inlineBytes is how much waits at the most for a goroutine that has made a packet to send it
// itself. It spares waking another, which is what a small packet would otherwise wait for; of large
// ones transmit makes batches.
const inlineBytes = 1536

// outlets returns an outlet for each queue of the Tun.
func outlets(d *Device) []*outlet {
	queues := d.tun.Queues()
	all := make([]*outlet, len(queues))
	for i, q := range queues {
		all[i] = newOutlet(d, q, i)
	}
	return all
}

// outlet sends what one queue of the Tun has. One goroutine at a time does; others leave their
// packets to it. Outlets write to no common memory, except the state of a peer to which several of
// them send.
type outlet struct {
	d     *Device
	queue Queue
	busy  atomic.Bool
	restc chan struct{} // capacity 1: transmit is to go on

	// Owned by whoever made busy true.
	bufs  [][]byte
	sizes []int
	s     sender
}

func newOutlet(d *Device, q Queue, lane int) *outlet {
	o := &outlet{d: d, queue: q, restc: make(chan struct{}, 1), s: sender{d: d, lane: lane}}
	n, size := d.tun.BatchSize(), headerLen+d.mtu+tagLen
	o.bufs, o.sizes = make([][]byte, n), make([]int, n)
	block := make([]byte, n*size)
	for i := range o.bufs {
		o.bufs[i] = block[i*size : (i+1)*size : (i+1)*size]
	}
	return o
}

// pump is called by whoever made a packet.
func (o *outlet) pump() {
	if o.busy.CompareAndSwap(false, true) && (o.queue.Waiting() > inlineBytes || !o.drain(pumpBatches)) {
		o.restc <- struct{}{} // has room, for only one is busy
	}
}

// transmit sends what others have left.
func (o *outlet) transmit() {
	for {
		select {
		case <-o.restc:
		case <-o.d.closec:
			return
		}
		o.drain(math.MaxInt)
	}
}

// drain sends that many batches at the most. It reports false, and stays busy, if there may be
// more.
func (o *outlet) drain(batches int) bool {
	for range batches {
		n := o.queue.Read(o.bufs, o.sizes, headerLen)
		if n > 0 {
			o.s.route(o.bufs[:n], o.sizes[:n])
			continue
		}
		o.busy.Store(false)
		// Somebody may have found us busy since.
		if o.queue.Waiting() == 0 || !o.busy.CompareAndSwap(false, true) {
			return true
		}
	}
	return false
}

// sender encrypts and sends. Each goroutine that sends has its own.
type sender struct {
	d    *Device
	lane int // of the bind
	out  [][]byte
	nonce
	last netip.Addr // of the destinations so far
	peer *peer      // whose it is
}

// route sends packets, each from headerLen on, to the peers that have their destinations.
func (s *sender) route(bufs [][]byte, sizes []int) {
	now := s.d.now()
	s.last = netip.Addr{} // routes may have changed
	for len(bufs) > 0 {
		p := s.peerFor(bufs[0][headerLen : headerLen+sizes[0]])
		n := 1
		for n < len(bufs) && s.peerFor(bufs[n][headerLen:headerLen+sizes[n]]) == p {
			n++
		}
		if p == nil {
			s.d.unroutable.Add(uint64(n))
		} else {
			s.send(p, bufs[:n], sizes[:n], now)
		}
		bufs, sizes = bufs[n:], sizes[n:]
	}
}

func (s *sender) peerFor(packet []byte) *peer {
	dst, ok := destination(packet)
	if !ok {
		return nil
	}
	if dst != s.last {
		s.last, s.peer = dst, s.d.routes.lookup(dst)
	}
	return s.peer
}

// send sends packets to p, or keeps them until there is a session.
func (s *sender) send(p *peer, bufs [][]byte, sizes []int, now int64) {
	k := p.current.Load()
	if k == nil || !k.usable(now) {
		s.d.full.Add(uint64(p.stage(bufs, sizes)))
		s.d.ask(p, askHandshake)
		return
	}
	counter, ok := k.reserve(len(bufs))
	if !ok {
		s.d.full.Add(uint64(p.stage(bufs, sizes)))
		s.d.ask(p, askHandshake)
		return
	}
	s.out = s.out[:0]
	for i, b := range bufs {
		s.out = append(s.out, k.seal(b, sizes[i], s.d.mtu, counter+uint64(i), &s.nonce))
	}
	s.d.post(s.lane, p, s.out, now)
	p.sentData(now)
	if k.aging(now) {
		s.d.ask(p, askHandshake)
	}
}

// keepalive sends a message without a packet, and reports false if there is no session to do so.
func (s *sender) keepalive(p *peer, now int64) bool {
	k := p.current.Load()
	if k == nil || !k.usable(now) {
		return false
	}
	counter, ok := k.reserve(1)
	if !ok {
		return false
	}
	b := k.seal(make([]byte, headerLen+tagLen), 0, s.d.mtu, counter, &s.nonce)
	s.d.post(s.lane, p, [][]byte{b}, now)
	if k.aging(now) {
		s.d.ask(p, askHandshake)
	}
	return true
}

// flush sends what waited for a session, and reports false if nothing did or there still is none.
func (s *sender) flush(p *peer, now int64) bool {
	if k := p.current.Load(); k == nil || !k.usable(now) {
		return false
	}
	packets := p.unstage()
	bufs, sizes := make([][]byte, len(packets)), make([]int, len(packets))
	for i, packet := range packets {
		bufs[i] = make([]byte, headerLen+max(len(packet), s.d.mtu)+tagLen)
		sizes[i] = copy(bufs[i][headerLen:], packet)
	}
	for n := s.d.tun.BatchSize(); len(bufs) > n; bufs, sizes = bufs[n:], sizes[n:] {
		s.send(p, bufs[:n], sizes[:n], now)
	}
	if len(bufs) > 0 {
		s.send(p, bufs, sizes, now)
	}
	return len(packets) > 0
}

// post sends messages by a lane of the bind. What cannot be sent is lost, as on any network.
func (d *Device) post(lane int, p *peer, messages [][]byte, now int64) {
	ep := p.endpoint.Load()
	if ep == nil {
		return
	}
	p.sent(now)
	if err := d.bind.Send(lane, messages, *ep); err != nil {
		d.log.Debug("WireGuard message is not sent", "peer", p.key, "err", err)
		return
	}
	total := 0
	for _, b := range messages {
		total += len(b)
	}
	p.tx.Add(uint64(total))
}

// destination is where an IP packet goes.
func destination(packet []byte) (netip.Addr, bool) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(packet[16:20])), true
	case len(packet) >= 40 && packet[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(packet[24:40])), true
	}
	return netip.Addr{}, false
}

// source is where an IP packet comes from, and how long it says that it is.
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
