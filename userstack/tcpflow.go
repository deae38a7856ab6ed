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

// tcpFlow is what a queue knows of a TCP connection. Under BBR it manages what the connection sends:
// gVisor hands over segments and believes that they are sent, and a snoop.Sender decides when each
// packet leaves and repairs losses. Under CUBIC it only measures the round-trip time for the
// receive window. The queue's mutex guards it.
//
// The Conn of the connection makes its flow and is its owner; the flow ends when the peer has
// acknowledged the FIN, or when gVisor gives the connection up.
type tcpFlow struct {
	id     flowID
	remote netip.Addr
	conn   *Conn
	ep     *tcp.Endpoint

	measureOnly bool // gVisor sends by itself

	snd        *snoop.Sender // nil until gVisor has sent the first data
	buffer     sendBuffer    // segments that the peer has not acknowledged
	header     packetHeader  // of the packets that leave
	latest     latestState   // what the latest segment of gVisor's said
	sack       bool          // the peer acknowledges selectively
	optionRoom int           // bytes of TCP options that gVisor leaves room for, and data do not have

	schedule        // when the flow is to be served
	total    uint64 // bytes that were sent for the first time, up to sequence number counted
	counted  uint32

	peerWindow uint16 // that the peer has offered last in a packet without data, as it was written
	windowLost bool   // gVisor's own retransmission timer has expired, and its window is one segment
	finSent    bool   // gVisor has sent a FIN
	ended      bool   // the flow has ended
	clock      timestampRTT
	lastHeard  time.Duration // when data of the peer came last
	lastSent   time.Duration // when data were last seen to be sent
	reported   snoop.Stats   // by the last report of traffic
}

// manage gives a new connection its flow.
func (c *Conn) manage(s *Stack) {
	ep, ok := c.ep.(*tcp.Endpoint)
	if !ok {
		return // cannot happen: gVisor's TCP has no other endpoints
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

func flowIDOf(id *stack.TransportEndpointID) (f flowID) {
	n := copy(f.addrs[:], id.LocalAddress.AsSlice())
	copy(f.addrs[n:], id.RemoteAddress.AsSlice())
	f.ports = uint32(id.LocalPort)<<16 | uint32(id.RemotePort)
	return f
}

// latestState is the state that every packet carries, whatever else is in it.
type latestState struct {
	ack    uint32
	window uint16
	ts     uint32 // TSval, if there are timestamps
	echo   uint32 // TSecr
}

// KUID implements tcpip.PacketOwner, by which gVisor hands a packet's flow through to the queue. It
// has no meaning here.
func (f *tcpFlow) KUID() uint32 { return 0 }

// KGID implements tcpip.PacketOwner.
func (f *tcpFlow) KGID() uint32 { return 0 }

// flowFor returns the flow of a packet that gVisor made, or nil.
func flowFor(pkt *stack.PacketBuffer) *tcpFlow {
	f, _ := pkt.Owner.(*tcpFlow)
	return f
}

// noteState takes over what a segment of gVisor's says besides its data.
func (f *tcpFlow) noteState(tcp header.TCP) {
	f.latest.ack, f.latest.window = tcp.AckNumber(), tcp.WindowSize()
	if ts, echo, ok := timestamps(tcp.Options()); ok {
		f.latest.echo = echo
		if int32(ts-f.latest.ts) > 0 || f.latest.ts == 0 {
			f.latest.ts = ts
		}
	}
}

// enqueue takes over a segment with data, or a FIN, and a reference to it. It reports false if the
// segment has been taken before: gVisor sends it again.
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
		f.snd.Recut(now, mss) // gVisor has heard that the path takes only shorter packets
	}
	n := data
	if fin {
		n++
	}
	if !f.snd.Queue(now, seq, n, fin) {
		// Either the path takes only shorter packets, or gVisor's own timer has expired, which is set
		// so long that the flow has tried for minutes.
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

func (f *tcpFlow) startSender(now time.Duration, seq uint32, pkt *stack.PacketBuffer, mtu int) {
	f.header.set(pkt.NetworkHeader().Slice(), header.TCP(pkt.TransportHeader().Slice()))
	f.counted = seq
	f.snd = snoop.New(seq, f.maxPayload(pkt, mtu))
	if rtt := f.clock.min(); rtt > 0 {
		f.snd.Model().Handshake(now, rtt)
	}
}

// maxPayload is the payload of a full packet. gVisor's own segments are shorter, because it leaves
// room for options that they do not have.
func (f *tcpFlow) maxPayload(pkt *stack.PacketBuffer, mtu int) int {
	most := mtu - f.header.size()
	if mss := int(pkt.GSOOptions.MSS); mss > 0 {
		return min(mss+f.optionRoom, most)
	}
	return most
}

// sendable is about how many bytes may leave now.
func (f *tcpFlow) sendable() int {
	if f.ended {
		return 0
	}
	return f.snd.Unsent() + f.snd.Missing()
}

// lastBusy is when the flow last had something that was not acknowledged.
func (f *tcpFlow) lastBusy(now time.Duration) time.Duration {
	if f.snd != nil && !f.snd.Idle() {
		f.lastSent = now
	}
	return f.lastSent
}

// progress tells the Conn how much has left, so that it writes more.
func (f *tcpFlow) progress() {
	f.total += uint64(f.snd.Sent() - f.counted)
	f.counted = f.snd.Sent()
	f.conn.progress(f.total)
}

// passAck takes a segment without data, which leaves at once. Its sequence number is that of
// what gVisor has handed over, which may be beyond the peer's window: what has really been sent
// counts (RFC 9293, section 3.10.7.4).
func (f *tcpFlow) passAck(now time.Duration, ip []byte, tcp header.TCP) {
	f.noteState(tcp)
	f.clock.sent(now, f.latest.ts)
	f.capSequence(ip, tcp)
}

// passReset takes a RST. It is accepted only if it has the sequence number that the peer expects.
func (f *tcpFlow) passReset(ip []byte, tcp header.TCP) { f.capSequence(ip, tcp) }

func (f *tcpFlow) capSequence(ip []byte, tcp header.TCP) {
	if f.snd != nil && int32(tcp.SequenceNumber()-f.snd.Sent()) > 0 {
		tcp.SetSequenceNumber(f.snd.Sent())
		sumTCP(ip, tcp)
	}
}

// restoreWindow gives gVisor its window back, which it has taken for too large when its own retransmission
// timer expired. It locks the endpoint.
func (f *tcpFlow) restoreWindow() {
	f.windowLost = false
	cc := tcpip.CongestionControlOption(managedCongestion)
	f.ep.SetSockOpt(&cc)
}

// abandon gives up everything.
func (f *tcpFlow) abandon() {
	f.ended = true
	f.buffer.release(f.buffer.end())
	f.conn.progress(math.MaxUint64)
}

// connEnded reports whether gVisor has given the connection up, so that nothing of it is to be sent any
// more.
func (f *tcpFlow) connEnded() bool {
	switch tcp.EndpointState(f.ep.State()) {
	case tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return false
	}
	return true
}

// packetHeader is what all packets of a flow begin with: the IP header, and a TCP header whose only
// option is a timestamp.
type packetHeader struct {
	bytes [header.IPv6MinimumSize + header.TCPMinimumSize + tcpOptions]byte
	l4    int // where the TCP header begins
	len   int
}

func (h *packetHeader) size() int { return h.len }

// set takes over the headers of a segment of gVisor's.
func (h *packetHeader) set(ip []byte, tcp header.TCP) {
	h.l4 = copy(h.bytes[:], ip)
	h.len = h.l4 + copy(h.bytes[h.l4:], tcp[:header.TCPMinimumSize])
	size := header.TCPMinimumSize
	if _, _, ok := timestamps(tcp.Options()); ok {
		h.len += copy(h.bytes[h.len:], tcp[header.TCPMinimumSize:header.TCPMinimumSize+tcpOptions])
		size += tcpOptions
	}
	header.TCP(h.bytes[h.l4:h.len]).SetDataOffset(uint8(size))
}

// timestamps reads the timestamp option where gVisor and everybody else puts it: first, after two
// NOPs.
func timestamps(options []byte) (ts, echo uint32, ok bool) {
	if len(options) < tcpOptions || options[0] != header.TCPOptionNOP || options[1] != header.TCPOptionNOP ||
		options[2] != header.TCPOptionTS || options[3] != header.TCPOptionTSLength {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(options[4:]), binary.BigEndian.Uint32(options[8:]), true
}

// buildPacket writes a packet to b and returns its size, 0 if it does not fit.
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

// setLatest writes what is newest of the connection's state.
func (f *tcpFlow) setLatest(tcp header.TCP) {
	tcp.SetAckNumber(f.latest.ack)
	tcp.SetWindowSize(f.latest.window)
	if o := tcp.Options(); len(o) >= tcpOptions {
		binary.BigEndian.PutUint32(o[4:], f.latest.ts)
		binary.BigEndian.PutUint32(o[8:], f.latest.echo)
	}
}

// receiveAck takes an acknowledgement of the peer's, and what it says of the window. It reports whether
// gVisor has to see it: it must not see those by which it would find a loss.
func (f *tcpFlow) receiveAck(now time.Duration, tcp header.TCP, payload int, sacks []snoop.Block) (show bool) {
	if f.snd == nil {
		return true
	}
	before, busy := f.snd.Acked(), !f.snd.Idle()
	f.snd.Ack(now, tcp.AckNumber(), sacks)
	una := f.snd.Acked()
	f.buffer.release(una)
	window := tcp.WindowSize()
	news := payload > 0 || una != before || f.peerWindow != window || tcp.Flags()&^header.TCPFlagPsh != header.TCPFlagAck
	if !news && len(sacks) == 0 && tcp.AckNumber() == una && !f.sack {
		f.snd.Duplicate(now)
	}
	if payload == 0 {
		f.peerWindow = window // gVisor has seen it; it takes none from data that it has already
	}
	switch {
	case window == 0:
		f.snd.Closed(now)
	case f.conn.unsent() == 0:
		f.snd.Open() // otherwise gVisor sends as soon as it knows, and take opens
	}
	f.ended = f.ended || f.finSent && f.snd.Idle()
	return news || !busy
}

// buildProbe is a packet that asks the peer for its window: without data, and below what it has
// acknowledged.
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
