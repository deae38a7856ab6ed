package wireguard

import (
	"math"
	"net/netip"
	"sync/atomic"
)

// inlineBatches is the number of batches that the goroutine which queued a packet sends itself. It
// leaves the rest to transmit, because it has other work to do and may hold locks.
const inlineBatches = 4

// inlineBytes is the queue length up to which the goroutine that queued a packet sends it itself.
// For a small packet, waking transmit would be most of the latency. More bytes are left to
// transmit, which sends them in larger batches.
const inlineBytes = 1536

// outbound encrypts and sends the packets of one queue of the Tun. One goroutine at a time does so;
// other goroutines leave their packets to it. Outbounds write to no common memory, except for the
// state of a peer that several of them send to.
type outbound struct {
	d         *Device
	queue     Queue
	busy      atomic.Bool   // a goroutine drains the queue
	continuec chan struct{} // capacity 1: tells transmit to continue draining

	// Owned by the goroutine that set busy.
	bufs  [][]byte
	sizes []int
	s     sealer
}

// newOutbounds makes an outbound for each queue of the Tun.
func newOutbounds(d *Device) []*outbound {
	queues := d.tun.Queues()
	all := make([]*outbound, len(queues))
	for i, q := range queues {
		all[i] = newOutbound(d, q, i)
	}
	return all
}

func newOutbound(d *Device, q Queue, lane int) *outbound {
	o := &outbound{d: d, queue: q, continuec: make(chan struct{}, 1), s: sealer{d: d, lane: lane}}
	n, size := d.tun.BatchSize(), headerLen+d.mtu+tagLen
	o.bufs, o.sizes = make([][]byte, n), make([]int, n)
	block := make([]byte, n*size)
	for i := range o.bufs {
		o.bufs[i] = block[i*size : (i+1)*size : (i+1)*size]
	}
	return o
}

// sendReady is called by every goroutine that has queued a packet.
func (o *outbound) sendReady() {
	if o.busy.CompareAndSwap(false, true) && (o.queue.Waiting() > inlineBytes || !o.drain(inlineBatches)) {
		o.continuec <- struct{}{} // never blocks, because only the goroutine that set busy sends
	}
}

// transmit drains the queue whenever sendReady leaves it packets.
func (o *outbound) transmit() {
	for {
		select {
		case <-o.continuec:
		case <-o.d.closec:
			return
		}
		o.drain(math.MaxInt)
	}
}

// drain sends up to the given number of batches. It reports true if the queue is empty and busy is
// no longer ours. Otherwise there may be more packets and the caller still owns busy.
func (o *outbound) drain(batches int) bool {
	for range batches {
		n := o.queue.Read(o.bufs, o.sizes, headerLen)
		if n > 0 {
			o.s.route(o.bufs[:n], o.sizes[:n])
			continue
		}
		o.busy.Store(false)
		// A goroutine may have queued a packet and found us busy between Read and Store.
		if o.queue.Waiting() == 0 || !o.busy.CompareAndSwap(false, true) {
			return true
		}
	}
	return false
}

// sealer encrypts packets and sends them. Each sending goroutine has its own.
type sealer struct {
	d    *Device
	lane int // of the Bind
	out  [][]byte
	nonce
	dst     netip.Addr // destination of the last packet
	dstPeer *peer      // that dst is routed to
}

// route sends packets, each starting at headerLen, to the peers that their destinations belong to.
func (s *sealer) route(bufs [][]byte, sizes []int) {
	now := s.d.now()
	s.dst = netip.Addr{} // the allowed IPs may have changed since the last call
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

func (s *sealer) peerFor(packet []byte) *peer {
	dst, ok := destination(packet)
	if !ok {
		return nil
	}
	if dst != s.dst {
		s.dst, s.dstPeer = dst, s.d.allowedIPs.lookup(dst)
	}
	return s.dstPeer
}

// send sends packets to p. Without a keypair to send with, it stages them and requests a handshake.
func (s *sealer) send(p *peer, bufs [][]byte, sizes []int, now int64) {
	k, counter := p.reserveCounters(len(bufs), now)
	if k == nil {
		s.d.noRoom.Add(uint64(p.stage(bufs, sizes)))
		s.d.request(p, reqHandshake)
		return
	}
	s.out = s.out[:0]
	for i, b := range bufs {
		s.out = append(s.out, k.seal(b, sizes[i], s.d.mtu, counter+uint64(i), &s.nonce))
	}
	s.d.sendMessages(s.lane, p, s.out, now)
	p.dataSent(now)
	if k.needsRekey(now) {
		s.d.request(p, reqHandshake)
	}
}

// sendKeepalive sends a transport data message without a packet. It reports false if there is no
// keypair to send with.
func (s *sealer) sendKeepalive(p *peer, now int64) bool {
	k, counter := p.reserveCounters(1, now)
	if k == nil {
		return false
	}
	b := k.seal(make([]byte, headerLen+tagLen), 0, s.d.mtu, counter, &s.nonce)
	s.d.sendMessages(s.lane, p, [][]byte{b}, now)
	if k.needsRekey(now) {
		s.d.request(p, reqHandshake)
	}
	return true
}

// reserveCounters returns the current keypair and the first of n counters, nil if there is no
// keypair to send with.
func (p *peer) reserveCounters(n int, now int64) (*keypair, uint64) {
	k := p.current.Load()
	if k == nil || !k.canSend(now) {
		return nil, 0
	}
	counter, ok := k.reserveCounters(n)
	if !ok {
		return nil, 0
	}
	return k, counter
}

// sendStaged sends the staged packets. It reports false if there are none, or no keypair to send
// with.
func (s *sealer) sendStaged(p *peer, now int64) bool {
	if k := p.current.Load(); k == nil || !k.canSend(now) {
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

// sendMessages sends messages to p in a lane of the Bind. Messages that cannot be sent are lost, as
// in the network. A peer without an endpoint gets none.
func (d *Device) sendMessages(lane int, p *peer, messages [][]byte, now int64) {
	ep := p.endpoint.Load()
	if ep == nil {
		return
	}
	p.messageSent(now)
	if err := d.bind.Send(lane, messages, *ep); err != nil {
		d.log.Debug("WireGuard message not sent", "peer", p.key, "err", err)
		return
	}
	total := 0
	for _, b := range messages {
		total += len(b)
	}
	p.tx.Add(uint64(total))
}

// destination returns the destination address of an IP packet. It reports false if the packet is
// malformed.
func destination(packet []byte) (netip.Addr, bool) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(packet[16:20])), true
	case len(packet) >= 40 && packet[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(packet[24:40])), true
	}
	return netip.Addr{}, false
}
