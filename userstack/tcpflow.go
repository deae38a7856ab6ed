package userstack

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"ginnel/internal/snoop"
)

// tcpFlow is the state of a TCP connection in its Queue. Under BBR it decides when data are sent:
// gVisor hands over segments and takes them for sent, and a snoop.Sender decides when each packet
// leaves and retransmits what was lost. Under CUBIC it only measures the round-trip time, for the
// size of the receive window. The queue's mutex guards it.
//
// The Conn creates and owns the flow. The flow ends when the peer has acknowledged the FIN, or when
// gVisor has given the connection up.
type tcpFlow struct {
	id     flowID
	remote netip.Addr
	conn   *Conn
	ep     *tcp.Endpoint

	measureOnly bool // CUBIC: gVisor's segments leave at once

	snd    *snoop.Sender // nil until gVisor has sent the first data
	buffer sendBuffer    // segments that the peer has not acknowledged
	header packetHeader  // of outbound packets
	latest latestState   // from gVisor's latest segment
	sack   bool          // SACK is negotiated

	// optionRoom is how many bytes of each packet gVisor leaves free for TCP options that data packets
	// do not have.
	optionRoom int

	schedule // when the flow is served
	progress sendProgress

	peerWindow uint16 // window field of the peer's last packet without data, not scaled
	windowLost bool   // gVisor's own RTO has expired and set its congestion window to one segment
	finSent    bool   // gVisor has sent a FIN
	ended      bool   // the flow has ended
	clock      timestampRTT
	lastUse    lastUse
	reported   snoop.Stats // at the last traffic report
}

// sendProgress counts the bytes of a connection that were sent at least once.
type sendProgress struct {
	total uint64 // bytes sent before upTo
	upTo  uint32 // sequence number
}

// advance moves upTo to seq and returns the total.
func (p *sendProgress) advance(seq uint32) uint64 {
	p.total += uint64(seq - p.upTo)
	p.upTo = seq
	return p.total
}

// lastUse is when data of a connection passed last in each direction.
type lastUse struct{ received, sent time.Duration }

// manage makes the flow of a new connection.
func (c *Conn) manage(s *Stack) {
	ep, ok := c.ep.(*tcp.Endpoint)
	if !ok {
		return // cannot happen: gVisor has no other type of TCP endpoint
	}
	f := &tcpFlow{conn: c, ep: ep, measureOnly: s.congestion == CUBIC, schedule: schedule{heapIndex: -1}}
	ep.LockUser()
	f.id, f.remote = flowIDOf(&ep.TransportEndpointInfo.ID), addrOf(ep.TransportEndpointInfo.ID.RemoteAddress)
	if f.sack = ep.SACKPermitted; f.sack {
		f.optionRoom = header.TCPOptionsMaximumSize - tcpOptions
	}
	ep.SetOwner(f)
	ep.UnlockUser()
	c.queue, c.flow = s.dev.queues[s.dev.queueOf(f.remote.AsSlice())], f
	c.notSent.init(c)
	c.queue.addFlow(f)
}

// flowIDOf returns the ID of the outbound packets of a connection.
func flowIDOf(id *stack.TransportEndpointID) (f flowID) {
	n := copy(f.addrs[:], id.LocalAddress.AsSlice())
	copy(f.addrs[n:], id.RemoteAddress.AsSlice())
	f.ports = uint32(id.LocalPort)<<16 | uint32(id.RemotePort)
	return f
}

// latestState is the part of the TCP header that every packet repeats with its latest value.
type latestState struct {
	ack    uint32
	window uint16
	ts     uint32 // TSval, if there are timestamps
	echo   uint32 // TSecr
}

// KUID implements tcpip.PacketOwner. gVisor attaches the owner of an endpoint to its packets, by
// which the queue finds the flow of a packet. The value is not used.
func (f *tcpFlow) KUID() uint32 { return 0 }

// KGID implements tcpip.PacketOwner; see KUID.
func (f *tcpFlow) KGID() uint32 { return 0 }

// flowFor returns the flow of an outbound packet, or nil.
func flowFor(pkt *stack.PacketBuffer) *tcpFlow {
	f, _ := pkt.Owner.(*tcpFlow)
	return f
}

// noteState takes the latest state over from a segment of gVisor.
func (f *tcpFlow) noteState(tcp header.TCP) {
	f.latest.ack, f.latest.window = tcp.AckNumber(), tcp.WindowSize()
	if ts, echo, ok := timestamps(tcp.Options()); ok {
		f.latest.echo = echo
		if int32(ts-f.latest.ts) > 0 || f.latest.ts == 0 {
			f.latest.ts = ts
		}
	}
}

// enqueue takes over a segment with data or FIN, and a reference to it. It reports false if gVisor
// retransmits a segment that the flow has already.
func (f *tcpFlow) enqueue(now time.Duration, pkt *stack.PacketBuffer, mtu int) bool {
	tcp := header.TCP(pkt.TransportHeader().Slice())
	f.noteState(tcp)
	f.clock.sent(now, f.latest.ts)
	seq, data := tcp.SequenceNumber(), pkt.Data().Size()
	fin := tcp.Flags()&header.TCPFlagFin != 0
	if f.snd == nil {
		f.startSender(now, seq, pkt, mtu)
	}
	mss := f.maxPayload(pkt, mtu)
	recut := mss < f.snd.MSS()
	if recut {
		f.snd.Recut(now, mss) // gVisor has learned a smaller path MTU
	}
	n := data
	if fin {
		n++
	}
	if !f.snd.Queue(now, snoop.Segment{Seq: seq, Len: n, Fin: fin}) {
		// gVisor retransmits because the path MTU is smaller, or because its own RTO has expired. The
		// flow has then retransmitted in vain for managedRTO.
		f.windowLost = !recut
		pkt.DecRef()
		return false
	}
	f.snd.Open()
	f.finSent = f.finSent || fin
	f.header.set(pkt.NetworkHeader().Slice(), tcp)
	f.buffer.push(bufferedSegment{pkt: pkt, seq: seq, size: data, fin: fin})
	return true
}

// startSender makes the snoop.Sender, whose first sequence number is seq.
func (f *tcpFlow) startSender(now time.Duration, seq uint32, pkt *stack.PacketBuffer, mtu int) {
	f.header.set(pkt.NetworkHeader().Slice(), header.TCP(pkt.TransportHeader().Slice()))
	f.progress.upTo = seq
	f.snd = snoop.New(seq, f.maxPayload(pkt, mtu))
	if rtt := f.clock.min(); rtt > 0 {
		f.snd.Model().Handshake(now, rtt)
	}
}

// maxPayload is the payload of a full packet. It exceeds gVisor's MSS, which leaves room for TCP
// options that data packets do not have.
func (f *tcpFlow) maxPayload(pkt *stack.PacketBuffer, mtu int) int {
	most := mtu - f.header.size()
	if mss := int(pkt.GSOOptions.MSS); mss > 0 {
		return min(mss+f.optionRoom, most)
	}
	return most
}

// sendable is about how many bytes may be sent now.
func (f *tcpFlow) sendable() int {
	if f.ended {
		return 0
	}
	return f.snd.Unsent() + f.snd.Missing()
}

// lastBusy is when data were last waiting for an acknowledgement, or were sent.
func (f *tcpFlow) lastBusy(now time.Duration) time.Duration {
	if f.snd != nil && !f.snd.Idle() {
		f.lastUse.sent = now
	}
	return f.lastUse.sent
}

// reportProgress tells the Conn how much has been sent, so that its writers go on.
func (f *tcpFlow) reportProgress() { f.conn.notSent.progress(f.progress.advance(f.snd.Sent())) }

// passAck adapts a pure acknowledgement of gVisor, which leaves at once. Its sequence number counts
// all that gVisor has handed over, which may lie beyond the peer's window; it must not exceed what
// was really sent (RFC 9293, section 3.10.7.4).
func (f *tcpFlow) passAck(now time.Duration, ip []byte, tcp header.TCP) {
	f.noteState(tcp)
	f.clock.sent(now, f.latest.ts)
	f.capSequence(ip, tcp)
}

// passReset adapts a RST of gVisor. The peer accepts it only with the sequence number that it
// expects.
func (f *tcpFlow) passReset(ip []byte, tcp header.TCP) { f.capSequence(ip, tcp) }

// capSequence lowers the sequence number of a segment to that of the next byte to be sent.
func (f *tcpFlow) capSequence(ip []byte, tcp header.TCP) {
	if f.snd != nil && int32(tcp.SequenceNumber()-f.snd.Sent()) > 0 {
		tcp.SetSequenceNumber(f.snd.Sent())
		sumTCP(ip, tcp)
	}
}

// restoreWindow resets gVisor's congestion control, whose window its RTO has set to one segment. It
// locks the endpoint, so the caller must not hold the queue's mutex.
func (f *tcpFlow) restoreWindow() {
	cc := tcpip.CongestionControlOption(managedCongestion)
	f.ep.SetSockOpt(&cc)
}

// abandon ends the flow, drops its segments and releases its writers.
func (f *tcpFlow) abandon() {
	f.ended = true
	f.buffer.release(f.buffer.end())
	f.conn.notSent.progress(math.MaxUint64)
}

// connEnded reports whether gVisor has given the connection up, so that nothing more may be sent.
func (f *tcpFlow) connEnded() bool {
	switch tcp.EndpointState(f.ep.State()) {
	case tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return false
	}
	return true
}

// buildPacket writes the packet out to b and returns its size, or 0 if it does not fit.
func (f *tcpFlow) buildPacket(b []byte, out snoop.Outgoing) int {
	size := out.Len
	if out.Fin {
		size--
	}
	n := f.header.len
	if n+size > len(b) {
		return 0
	}
	copy(b, f.header.bytes[:n])
	flags := header.TCPFlags(header.TCPFlagAck)
	if size > 0 && f.buffer.copy(b[n:n+size], out.Seq) {
		flags |= header.TCPFlagPsh
	}
	if out.Fin {
		flags |= header.TCPFlagFin
	}
	tcp := header.TCP(b[f.header.l4:n])
	tcp.SetSequenceNumber(out.Seq)
	tcp.SetFlags(uint8(flags))
	f.setLatest(tcp)
	lowerWindow(tcp)
	finishTCP(b[:n+size], f.header.l4)
	return n + size
}

// setLatest writes the latest state to a TCP header.
func (f *tcpFlow) setLatest(tcp header.TCP) {
	tcp.SetAckNumber(f.latest.ack)
	tcp.SetWindowSize(f.latest.window)
	if o := tcp.Options(); len(o) >= tcpOptions {
		binary.BigEndian.PutUint32(o[4:], f.latest.ts)
		binary.BigEndian.PutUint32(o[8:], f.latest.echo)
	}
}

// receiveAck takes an inbound acknowledgement and window. It reports whether gVisor must see the
// packet. gVisor must not see duplicate acknowledgements, because it would take them for a loss.
func (f *tcpFlow) receiveAck(now time.Duration, tcp header.TCP, payload int, sacks []snoop.Block) (show bool) {
	if f.snd == nil {
		return true
	}
	before, busy := f.snd.Acked(), !f.snd.Idle()
	f.snd.Ack(now, tcp.AckNumber(), sacks)
	una := f.snd.Acked()
	f.buffer.release(una)
	window := tcp.WindowSize()
	isNew := payload > 0 || una != before || f.peerWindow != window ||
		tcp.Flags()&^header.TCPFlagPsh != header.TCPFlagAck
	if !isNew && len(sacks) == 0 && tcp.AckNumber() == una && !f.sack {
		f.snd.Duplicate(now)
	}
	if payload == 0 {
		f.peerWindow = window // gVisor knows this one; it ignores the window in retransmitted data
	}
	switch {
	case window == 0:
		f.snd.Closed(now)
	case f.conn.unsent() == 0:
		f.snd.Open() // if more is unsent, gVisor sends it when it sees the window, and enqueue calls Open
	}
	f.ended = f.ended || f.finSent && f.snd.Idle()
	return isNew || !busy
}

// buildProbe writes a window probe: a packet without data, whose sequence number the peer has
// acknowledged already, so that it answers with its window.
func (f *tcpFlow) buildProbe(b []byte) int {
	copy(b, f.header.bytes[:f.header.len])
	tcp := header.TCP(b[f.header.l4:f.header.len])
	tcp.SetSequenceNumber(f.snd.Acked() - 1)
	tcp.SetFlags(uint8(header.TCPFlagAck))
	f.setLatest(tcp)
	lowerWindow(tcp)
	finishTCP(b[:f.header.len], f.header.l4)
	return f.header.len
}

var _ tcpip.PacketOwner = (*tcpFlow)(nil)
