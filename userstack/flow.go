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

// flow is what a queue knows of a TCP connection. Under BBR it manages what the connection sends:
// gVisor hands over segments and believes that they are sent, and a snoop.Sender decides when each
// packet leaves and repairs losses. Under CUBIC it only measures the round-trip time for the
// receive window. The queue's mutex guards it.
//
// The Conn of the connection makes its flow and is its owner; the flow ends when the peer has
// acknowledged the FIN, or when gVisor gives the connection up.
type flow struct {
	id     flowID
	remote netip.Addr
	conn   *Conn
	ep     *tcp.Endpoint

	passive bool // gVisor sends by itself

	snd    *snoop.Sender // nil until gVisor has sent the first data
	chunks chunks        // segments that the peer has not acknowledged
	hdr    packetHeader  // of the packets that leave
	last   lastSent      // what the latest segment of gVisor's said
	sack   bool          // the peer acknowledges selectively
	slack  int           // bytes of TCP options that gVisor leaves room for, and data do not have

	sched          // when the flow is to be served
	total   uint64 // bytes that were sent for the first time, up to sequence number counted
	counted uint32

	window uint16 // that the peer has offered last in a packet without data, as it was written
	shrunk bool   // gVisor's own retransmission timer has expired, and its window is one segment
	fin    bool   // gVisor has sent a FIN
	gone   bool   // the flow has ended
	clock  echoClock
	heard  time.Duration // when data of the peer came last
	spoke  time.Duration // when data were last seen to be sent
	told   snoop.Stats   // by the last report of traffic
}

// manage gives a new connection its flow.
func (c *Conn) manage(s *Stack) {
	ep, ok := c.ep.(*tcp.Endpoint)
	if !ok {
		return // cannot happen: gVisor's TCP has no other endpoints
	}
	f := &flow{conn: c, ep: ep, passive: s.congestion == CUBIC, sched: sched{index: -1}}
	ep.LockUser()
	f.id, f.remote = flowIDOf(&ep.TransportEndpointInfo.ID), addrOf(ep.TransportEndpointInfo.ID.RemoteAddress)
	if f.sack = ep.SACKPermitted; f.sack {
		f.slack = header.TCPOptionsMaximumSize - tcpOptions
	}
	ep.SetOwner(f)
	ep.UnlockUser()
	c.queue, c.flow = s.dev.queues[s.dev.queueOf(f.remote.AsSlice())], f
	c.pending.init(c)
	c.queue.addFlow(f)
}

func flowIDOf(id *stack.TransportEndpointID) (f flowID) {
	n := copy(f.addrs[:], id.LocalAddress.AsSlice())
	copy(f.addrs[n:], id.RemoteAddress.AsSlice())
	f.ports = uint32(id.LocalPort)<<16 | uint32(id.RemotePort)
	return f
}

// lastSent is the state that every packet carries, whatever else is in it.
type lastSent struct {
	ack    uint32
	window uint16
	ts     uint32 // TSval, if there are timestamps
	echo   uint32 // TSecr
}

// KUID implements tcpip.PacketOwner, by which gVisor hands a packet's flow through to the queue. It
// has no meaning here.
func (f *flow) KUID() uint32 { return 0 }

// KGID implements tcpip.PacketOwner.
func (f *flow) KGID() uint32 { return 0 }

// flowFor returns the flow of a packet that gVisor made, or nil.
func flowFor(pkt *stack.PacketBuffer) *flow {
	f, _ := pkt.Owner.(*flow)
	return f
}

// note takes over what a segment of gVisor's says besides its data.
func (f *flow) note(tcp header.TCP) {
	f.last.ack, f.last.window = tcp.AckNumber(), tcp.WindowSize()
	if ts, echo, ok := timestamps(tcp.Options()); ok {
		f.last.echo = echo
		if int32(ts-f.last.ts) > 0 || f.last.ts == 0 {
			f.last.ts = ts
		}
	}
}

// take takes over a segment with data, or a FIN, and a reference to it. It reports false if the
// segment has been taken before: gVisor sends it again.
func (f *flow) take(now time.Duration, pkt *stack.PacketBuffer, mtu int) bool {
	tcp := header.TCP(pkt.TransportHeader().Slice())
	f.note(tcp)
	f.clock.sent(now, f.last.ts)
	seq, data := tcp.SequenceNumber(), pkt.Data().Size()
	fin := tcp.Flags()&header.TCPFlagFin != 0
	if f.snd == nil {
		f.start(now, seq, pkt, mtu)
	}
	mss := f.payload(pkt, mtu)
	recut := mss < f.snd.MSS()
	if recut {
		f.snd.Recut(now, mss) // gVisor has heard that the path takes only shorter packets
	}
	n := data
	if fin {
		n++
	}
	if !f.snd.Queue(now, snoop.Segment{Seq: seq, Len: n, Fin: fin}) {
		// Either the path takes only shorter packets, or gVisor's own timer has expired, which is set
		// so long that the flow has tried for minutes.
		f.shrunk = !recut
		pkt.DecRef()
		return false
	}
	f.snd.Open()
	f.fin = f.fin || fin
	f.hdr.set(pkt.NetworkHeader().Slice(), tcp)
	f.chunks.push(chunk{pkt: pkt, seq: seq, size: data, fin: fin})
	return true
}

func (f *flow) start(now time.Duration, seq uint32, pkt *stack.PacketBuffer, mtu int) {
	f.hdr.set(pkt.NetworkHeader().Slice(), header.TCP(pkt.TransportHeader().Slice()))
	f.counted = seq
	f.snd = snoop.New(seq, f.payload(pkt, mtu))
	if rtt := f.clock.min(); rtt > 0 {
		f.snd.Model().Handshake(now, rtt)
	}
}

// payload is the payload of a full packet. gVisor's own segments are shorter, because it leaves
// room for options that they do not have.
func (f *flow) payload(pkt *stack.PacketBuffer, mtu int) int {
	most := mtu - f.hdr.size()
	if mss := int(pkt.GSOOptions.MSS); mss > 0 {
		return min(mss+f.slack, most)
	}
	return most
}

// waiting is about how many bytes may leave now.
func (f *flow) waiting() int {
	if f.gone {
		return 0
	}
	return f.snd.Unsent() + f.snd.Missing()
}

// talked is when the flow last had something that was not acknowledged.
func (f *flow) talked(now time.Duration) time.Duration {
	if f.snd != nil && !f.snd.Idle() {
		f.spoke = now
	}
	return f.spoke
}

// progress tells the Conn how much has left, so that it writes more.
func (f *flow) progress() {
	f.total += uint64(f.snd.Sent() - f.counted)
	f.counted = f.snd.Sent()
	f.conn.progress(f.total)
}

// acknowledge takes a segment without data, which leaves at once. Its sequence number is that of
// what gVisor has handed over, which may be beyond the peer's window: what has really been sent
// counts (RFC 9293, section 3.10.7.4).
func (f *flow) acknowledge(now time.Duration, ip []byte, tcp header.TCP) {
	f.note(tcp)
	f.clock.sent(now, f.last.ts)
	f.limitSeq(ip, tcp)
}

// reset takes a RST. It is accepted only if it has the sequence number that the peer expects.
func (f *flow) reset(ip []byte, tcp header.TCP) { f.limitSeq(ip, tcp) }

func (f *flow) limitSeq(ip []byte, tcp header.TCP) {
	if f.snd != nil && int32(tcp.SequenceNumber()-f.snd.Sent()) > 0 {
		tcp.SetSequenceNumber(f.snd.Sent())
		sumTCP(ip, tcp)
	}
}

// regrow gives gVisor its window back, which it has taken for too large when its own retransmission
// timer expired. It locks the endpoint.
func (f *flow) regrow() {
	f.shrunk = false
	cc := tcpip.CongestionControlOption(managedCongestion)
	f.ep.SetSockOpt(&cc)
}

// drop gives up everything.
func (f *flow) drop() {
	f.gone = true
	f.chunks.drop(f.chunks.end())
	f.conn.progress(math.MaxUint64)
}

// dead reports whether gVisor has given the connection up, so that nothing of it is to be sent any
// more.
func (f *flow) dead() bool {
	switch tcp.EndpointState(f.ep.State()) {
	case tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return false
	}
	return true
}

// packetHeader is what all packets of a flow begin with: the IP header, and a TCP header whose only
// option is a timestamp.
type packetHeader struct {
	b  [header.IPv6MinimumSize + header.TCPMinimumSize + tcpOptions]byte
	l4 int // where the TCP header begins
	n  int
}

func (h *packetHeader) size() int { return h.n }

// set takes over the headers of a segment of gVisor's.
func (h *packetHeader) set(ip []byte, tcp header.TCP) {
	h.l4 = copy(h.b[:], ip)
	h.n = h.l4 + copy(h.b[h.l4:], tcp[:header.TCPMinimumSize])
	size := header.TCPMinimumSize
	if _, _, ok := timestamps(tcp.Options()); ok {
		h.n += copy(h.b[h.n:], tcp[header.TCPMinimumSize:header.TCPMinimumSize+tcpOptions])
		size += tcpOptions
	}
	header.TCP(h.b[h.l4:h.n]).SetDataOffset(uint8(size))
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

// build writes a packet to b and returns its size, 0 if it does not fit.
func (f *flow) build(b []byte, out snoop.Outgoing) int {
	size := out.Len
	if out.Fin {
		size--
	}
	n := f.hdr.n
	if n+size > len(b) {
		return 0
	}
	copy(b, f.hdr.b[:n])
	flags := header.TCPFlags(header.TCPFlagAck)
	if size > 0 && f.chunks.copy(b[n:n+size], out.Seq) {
		flags |= header.TCPFlagPsh
	}
	if out.Fin {
		flags |= header.TCPFlagFin
	}
	tcp := header.TCP(b[f.hdr.l4:n])
	tcp.SetSequenceNumber(out.Seq)
	tcp.SetFlags(uint8(flags))
	f.stamp(tcp)
	lowerWindow(tcp)
	finishTCP(b[:n+size], f.hdr.l4)
	return n + size
}

// stamp writes what is newest of the connection's state.
func (f *flow) stamp(tcp header.TCP) {
	tcp.SetAckNumber(f.last.ack)
	tcp.SetWindowSize(f.last.window)
	if o := tcp.Options(); len(o) >= tcpOptions {
		binary.BigEndian.PutUint32(o[4:], f.last.ts)
		binary.BigEndian.PutUint32(o[8:], f.last.echo)
	}
}

// acked takes an acknowledgement of the peer's, and what it says of the window. It reports whether
// gVisor has to see it: it must not see those by which it would find a loss.
func (f *flow) acked(now time.Duration, tcp header.TCP, payload int, sacks []snoop.Block) (show bool) {
	if f.snd == nil {
		return true
	}
	before, busy := f.snd.Acked(), !f.snd.Idle()
	f.snd.Ack(now, tcp.AckNumber(), sacks)
	una := f.snd.Acked()
	f.chunks.drop(una)
	window := tcp.WindowSize()
	news := payload > 0 || una != before || f.window != window || tcp.Flags()&^header.TCPFlagPsh != header.TCPFlagAck
	if !news && len(sacks) == 0 && tcp.AckNumber() == una && !f.sack {
		f.snd.Duplicate(now)
	}
	if payload == 0 {
		f.window = window // gVisor has seen it; it takes none from data that it has already
	}
	switch {
	case window == 0:
		f.snd.Closed(now)
	case f.conn.unsent() == 0:
		f.snd.Open() // otherwise gVisor sends as soon as it knows, and take opens
	}
	f.gone = f.gone || f.fin && f.snd.Idle()
	return news || !busy
}

// probe is a packet that asks the peer for its window: without data, and below what it has
// acknowledged.
func (f *flow) probe(b []byte) int {
	copy(b, f.hdr.b[:f.hdr.n])
	tcp := header.TCP(b[f.hdr.l4:f.hdr.n])
	tcp.SetSequenceNumber(f.snd.Acked() - 1)
	tcp.SetFlags(uint8(header.TCPFlagAck))
	f.stamp(tcp)
	lowerWindow(tcp)
	finishTCP(b[:f.hdr.n], f.hdr.l4)
	return f.hdr.n
}

var _ tcpip.PacketOwner = (*flow)(nil)
