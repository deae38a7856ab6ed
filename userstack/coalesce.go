package userstack

import (
	"bytes"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// coalesceFlows is how many flows of one batch are joined at a time. A batch of more goes through,
	// less joined.
	coalesceFlows = 8

	// coalesceMax is the largest joined packet: what an IPv4 header can say.
	coalesceMax = 65535
)

// coalescer joins consecutive TCP segments of one flow within a batch, so that gVisor handles one
// large packet instead of many (receive offload). It keeps slices of the batch and copies once,
// when a packet goes up. Packets of one flow stay in order; flows may pass each other. The zero
// value is ready; it lives on the stack of device.Write.
//
// gVisor reads a stream and does not care how it was cut, or which segments were marked for
// pushing. So all that follows is joined, whatever its size, and an acknowledgement without data
// that goes beyond the one before it takes its place. What the joined packet says is the state
// after the last: its acknowledgement, window and echoed timestamp. Its own timestamp is that of
// the first, as that of a delayed acknowledgement would echo it (RFC 7323, section 4.3).
type coalescer struct {
	d           *Device // whose flows see acknowledgements first; nil: there are none
	ackedQueues uint    // queues whose flows have seen one, as bits

	runs [coalesceFlows]segmentRun
	n    int

	next [maxBatch]int16 // packet i of the batch is followed in its run by next[i]
	pkts [maxBatch][]byte
	used int
}

// segmentRun is a row of segments that follow each other in one flow.
type segmentRun struct {
	first, last int16 // indexes into pkts
	l4, hdr     int   // where the TCP header begins and ends
	size        int   // of the joined packet
	seq, ack    uint32
	ended       bool // by the end of the stream
}

// add takes one packet of the batch. It lowers the window in it: see lowerWindow.
func (c *coalescer) add(packet []byte, up stack.NetworkDispatcher) {
	l4, hdr, kind := classify(packet)
	if kind == notTCP {
		deliver(packet, up)
		return
	}
	lowerWindow(packet[l4:])
	i := c.find(packet, l4)
	if kind == unmergeableTCP {
		if i >= 0 {
			c.flushRun(&c.runs[i], up) // what came before it in its flow goes first
			c.n--
			c.runs[i] = c.runs[c.n]
		}
		if c.passToFlow(packet, l4, hdr) {
			deliver(packet, up)
		}
		return
	}
	if c.used == len(c.pkts) || i < 0 && c.n == len(c.runs) {
		c.flush(up)
		i = -1
	}
	if i < 0 {
		c.start(&c.runs[c.n], packet, l4, hdr)
		c.n++
		return
	}
	r := &c.runs[i]
	if c.follows(r, packet, hdr) {
		c.extend(r, packet)
		return
	}
	c.flushRun(r, up)
	c.start(r, packet, l4, hdr)
}

// find returns the index of the run of packet's flow, or -1.
func (c *coalescer) find(packet []byte, l4 int) int {
	for i := range c.n {
		r := &c.runs[i]
		if sameFlow(c.pkts[r.first], r.l4, packet, l4) {
			return i
		}
	}
	return -1
}

// flush passes everything up, in the order in which the flows began.
func (c *coalescer) flush(up stack.NetworkDispatcher) {
	for i := range c.n {
		c.flushRun(&c.runs[i], up)
	}
	c.n, c.used = 0, 0
}

func (c *coalescer) start(r *segmentRun, packet []byte, l4, hdr int) {
	i, tcp := c.keep(packet), header.TCP(packet[l4:])
	*r = segmentRun{first: i, last: i, l4: l4, hdr: hdr, size: len(packet), ended: endsStream(tcp)}
	r.seq, r.ack = tcp.SequenceNumber()+uint32(len(packet)-hdr), tcp.AckNumber()
}

// follows reports whether packet, of the run's flow, can be joined to it: it continues the
// sequence, and differs from the first only in what joining may lose (length, identification,
// checksum, timestamp) or keeps (acknowledgement, window, echoed timestamp, last flags).
func (c *coalescer) follows(r *segmentRun, packet []byte, hdr int) bool {
	first := c.pkts[r.first]
	payload := len(packet) - hdr
	if r.ended || hdr != r.hdr || r.size+payload > coalesceMax {
		return false
	}
	a, b := header.TCP(first[r.l4:hdr]), header.TCP(packet[r.l4:hdr])
	more := int32(b.AckNumber() - r.ack)
	alone := payload == 0 || r.size == r.hdr // an acknowledgement, which is counted if it repeats another
	if b.SequenceNumber() != r.seq || more < 0 || more == 0 && alone ||
		(a.Flags()^b.Flags())&^tcpLastFlags != 0 || !bytes.Equal(a.Options(), b.Options()) && !(timestampOnly(a) && timestampOnly(b)) {
		return false
	}
	if r.l4 == header.IPv4MinimumSize {
		return first[1] == packet[1] && first[8] == packet[8] // type of service, time to live
	}
	return bytes.Equal(first[:4], packet[:4]) && first[7] == packet[7] // class and flow label, hop limit
}

// plainOptions reports whether a header that is not a SYN tells of no gap: its only option, if it has any,
// is a timestamp.
func plainOptions(tcp header.TCP) bool {
	return tcp.DataOffset() == header.TCPMinimumSize || timestampOnly(tcp)
}

// timestampOnly reports whether a header's only option is a timestamp, in the usual place.
func timestampOnly(tcp header.TCP) bool {
	o := tcp.Options()
	return len(o) == tcpOptions && o[0] == header.TCPOptionNOP && o[1] == header.TCPOptionNOP && o[2] == header.TCPOptionTS
}

func (c *coalescer) extend(r *segmentRun, packet []byte) {
	i, tcp := c.keep(packet), header.TCP(packet[r.l4:])
	c.next[r.last] = i
	r.last = i
	r.size += len(packet) - r.hdr
	r.seq += uint32(len(packet) - r.hdr)
	r.ack, r.ended = tcp.AckNumber(), endsStream(tcp)
}

func (c *coalescer) keep(packet []byte) int16 {
	i := int16(c.used)
	c.pkts[i] = packet
	c.next[i] = -1
	c.used++
	return i
}

// flushRun passes one run up as one packet.
func (c *coalescer) flushRun(r *segmentRun, up stack.NetworkDispatcher) {
	first := c.pkts[r.first]
	if r.first == r.last {
		if c.passToFlow(first, r.l4, r.hdr) {
			deliver(first, up)
		}
		return
	}
	v := buffer.NewViewSize(r.size)
	b := v.AsSlice()
	n := copy(b, first)
	for i := c.next[r.first]; i >= 0; i = c.next[i] {
		n += copy(b[n:], c.pkts[i][r.hdr:])
	}
	copyLastState(b[r.l4:r.hdr], c.pkts[r.last][r.l4:r.hdr])
	// The checksums are left wrong: the device tells gVisor not to look at them.
	if b[0]>>4 == 4 {
		header.IPv4(b).SetTotalLength(uint16(r.size))
	} else {
		header.IPv6(b).SetPayloadLength(uint16(r.size - header.IPv6MinimumSize))
	}
	if !c.passToFlow(b, r.l4, r.hdr) {
		v.Release()
		return
	}
	deliverView(v, up)
}

// passToFlow shows a TCP packet to its flow, and reports whether gVisor is to see it.
func (c *coalescer) passToFlow(packet []byte, l4, hdr int) bool {
	if c.d == nil || hdr < l4+header.TCPMinimumSize || hdr > len(packet) {
		return true
	}
	if f := header.TCP(packet[l4:]).Flags(); f&(header.TCPFlagAck|header.TCPFlagSyn|header.TCPFlagRst) != header.TCPFlagAck {
		return true
	}
	src := packet[12:16]
	if packet[0]>>4 == 6 {
		src = packet[8:24]
	}
	q := c.d.queueOf(src)
	c.ackedQueues |= 1 << q
	return c.d.queues[q].received(packet, l4, hdr)
}

// copyLastState makes the header of a joined packet say what that of the last packet in it does.
func copyLastState(tcp, last []byte) {
	tcp[tcpFlagsOffset] |= last[tcpFlagsOffset] & byte(tcpLastFlags)
	copy(tcp[tcpAckOffset:tcpAckOffset+4], last[tcpAckOffset:])
	copy(tcp[tcpWindowOffset:tcpWindowOffset+2], last[tcpWindowOffset:])
	if timestampOnly(tcp) {
		copy(tcp[tcpEchoOffset:tcpEchoOffset+4], last[tcpEchoOffset:])
	}
}

// packetKind is what the coalescer does with a packet.
type packetKind int

const (
	notTCP         packetKind = iota // passes on its own
	unmergeableTCP                   // passes on its own, after what its flow has sent so far
	mergeableTCP                     // may be joined
)

// classify tells the kind of packet and where its TCP header begins and ends.
func classify(packet []byte) (l4, hdr int, k packetKind) {
	switch {
	case len(packet) < header.IPv4MinimumSize:
		return 0, 0, notTCP
	case packet[0] == 0x45: // version 4, no options
		ip := header.IPv4(packet)
		if ip.Protocol() != uint8(header.TCPProtocolNumber) || int(ip.TotalLength()) != len(packet) ||
			ip.More() || ip.FragmentOffset() != 0 {
			return 0, 0, notTCP
		}
		l4 = header.IPv4MinimumSize
	case packet[0]>>4 == 6 && len(packet) >= header.IPv6MinimumSize:
		ip := header.IPv6(packet)
		if ip.NextHeader() != uint8(header.TCPProtocolNumber) || int(ip.PayloadLength()) != len(packet)-header.IPv6MinimumSize {
			return 0, 0, notTCP
		}
		l4 = header.IPv6MinimumSize
	default:
		return 0, 0, notTCP
	}
	if len(packet) < l4+header.TCPMinimumSize {
		return 0, 0, notTCP
	}
	tcp := header.TCP(packet[l4:])
	hdr = l4 + int(tcp.DataOffset())
	const unusual = header.TCPFlagSyn | header.TCPFlagRst | header.TCPFlagUrg
	if hdr < l4+header.TCPMinimumSize || hdr > len(packet) || tcp.Flags()&unusual != 0 || tcp.Flags()&header.TCPFlagAck == 0 {
		return l4, hdr, unmergeableTCP
	}
	if hdr == len(packet) && (tcp.Flags() != header.TCPFlagAck || !plainOptions(tcp)) {
		return l4, hdr, unmergeableTCP // it ends the stream, or tells of a gap
	}
	return l4, hdr, mergeableTCP
}

// endsStream reports whether nothing may be joined after a segment.
func endsStream(tcp header.TCP) bool { return tcp.Flags()&header.TCPFlagFin != 0 }

// sameFlow compares addresses and ports.
func sameFlow(a []byte, al4 int, b []byte, bl4 int) bool {
	if al4 != bl4 || !bytes.Equal(a[al4:al4+4], b[bl4:bl4+4]) {
		return false
	}
	if al4 == header.IPv4MinimumSize {
		return bytes.Equal(a[12:20], b[12:20])
	}
	return bytes.Equal(a[8:40], b[8:40])
}

// deliver copies packet and passes it up.
func deliver(packet []byte, up stack.NetworkDispatcher) {
	deliverView(buffer.NewViewWithData(packet), up)
}

func deliverView(v *buffer.View, up stack.NetworkDispatcher) {
	var proto tcpip.NetworkProtocolNumber = header.IPv4ProtocolNumber
	if v.AsSlice()[0]>>4 == 6 {
		proto = header.IPv6ProtocolNumber
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	up.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}
