package userstack

import (
	"bytes"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// coalesceFlows is how many flows of one batch are merged at a time. When a batch has more,
	// everything merged so far is passed up first.
	coalesceFlows = 8

	// coalesceMax is the size of the largest merged packet: the IPv4 total length has 16 bits.
	coalesceMax = 65535
)

// coalescer merges consecutive TCP segments of one flow within a batch, so that gVisor handles one
// large packet instead of many (generic receive offload, GRO). It keeps slices of the batch and
// copies the data once, when a packet is passed up. Packets of one flow stay in order; flows may
// overtake each other. It needs only d, and lives on the stack of Device.Write.
//
// gVisor reads a byte stream. Segment boundaries and PSH flags do not matter to it, so consecutive
// segments of any size are merged, and a pure acknowledgement replaces an older one that it goes
// beyond. A merged packet carries the latest state: acknowledgement number, window and echoed
// timestamp of its last segment. Its own timestamp is that of its first segment, because a delayed
// acknowledgement echoes that one (RFC 7323, section 4.3).
type coalescer struct {
	d           *Device // its flows see each acknowledgement before gVisor does
	ackedQueues uint    // bit i: a flow of queue i has seen an acknowledgement

	runs [coalesceFlows]segmentRun
	n    int

	next [maxBatch]int16 // index of the packet that follows packet i in its run, or -1
	pkts [maxBatch][]byte
	used int
}

// segmentRun is a sequence of consecutive segments of one flow.
type segmentRun struct {
	first, last int16 // indexes into pkts
	l4, hdr     int   // offsets of the TCP header and of the payload
	size        int   // length of the merged packet in bytes
	seq, ack    uint32
	ended       bool // the last segment has FIN
}

// add takes one packet of the batch. It lowers the TCP window in it; see lowerWindow.
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
			c.flushRun(&c.runs[i], up) // keep the order within the flow
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

// follows reports whether packet, which is of the run's flow, can be merged into the run. It must
// continue the sequence, and may differ from the first packet only in what merging discards
// (length, identification, checksum, timestamp) or takes over (acknowledgement, window, echoed
// timestamp, PSH and FIN).
func (c *coalescer) follows(r *segmentRun, packet []byte, hdr int) bool {
	first := c.pkts[r.first]
	payload := len(packet) - hdr
	if r.ended || hdr != r.hdr || r.size+payload > coalesceMax {
		return false
	}
	a, b := header.TCP(first[r.l4:hdr]), header.TCP(packet[r.l4:hdr])
	more := int32(b.AckNumber() - r.ack)
	// gVisor counts duplicate acknowledgements, so a pure one that repeats the number is not merged.
	pure := payload == 0 || r.size == r.hdr
	if b.SequenceNumber() != r.seq || more < 0 || more == 0 && pure || (a.Flags()^b.Flags())&^tcpLastFlags != 0 {
		return false
	}
	if !bytes.Equal(a.Options(), b.Options()) && !(timestampOnly(a) && timestampOnly(b)) {
		return false
	}
	if r.l4 == header.IPv4MinimumSize {
		return first[1] == packet[1] && first[8] == packet[8] // DSCP and ECN, time to live
	}
	return bytes.Equal(first[:4], packet[:4]) && first[7] == packet[7] // traffic class, flow label, hop limit
}

// plainOptions reports whether the only option of a TCP header, if it has any, is a timestamp. In a
// packet without SYN, any other option is a SACK block.
func plainOptions(tcp header.TCP) bool {
	return tcp.DataOffset() == header.TCPMinimumSize || timestampOnly(tcp)
}

// timestampOnly reports whether the only option is a timestamp, after two NOPs as usual.
func timestampOnly(tcp header.TCP) bool {
	o := tcp.Options()
	return len(o) == tcpOptions &&
		o[0] == header.TCPOptionNOP && o[1] == header.TCPOptionNOP && o[2] == header.TCPOptionTS
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
	// The checksums stay wrong. gVisor does not verify them; see link.Capabilities.
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

// passToFlow shows an inbound TCP packet to the flow that manages its connection, if there is one.
// It reports whether gVisor must see the packet too.
func (c *coalescer) passToFlow(packet []byte, l4, hdr int) bool {
	if hdr < l4+header.TCPMinimumSize || hdr > len(packet) {
		return true
	}
	const relevant = header.TCPFlagAck | header.TCPFlagSyn | header.TCPFlagRst
	if header.TCP(packet[l4:]).Flags()&relevant != header.TCPFlagAck {
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

// copyLastState copies the state of the last segment to the header of a merged packet.
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
	notTCP         packetKind = iota // is passed up unchanged
	unmergeableTCP                   // is passed up unchanged, after the earlier packets of its flow
	mergeableTCP                     // may be merged
)

// classify returns the kind of a packet and the offsets of its TCP header and payload.
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
		if ip.NextHeader() != uint8(header.TCPProtocolNumber) ||
			int(ip.PayloadLength()) != len(packet)-header.IPv6MinimumSize {
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
	if hdr < l4+header.TCPMinimumSize || hdr > len(packet) ||
		tcp.Flags()&unusual != 0 || tcp.Flags()&header.TCPFlagAck == 0 {
		return l4, hdr, unmergeableTCP
	}
	if hdr == len(packet) && (tcp.Flags() != header.TCPFlagAck || !plainOptions(tcp)) {
		return l4, hdr, unmergeableTCP // a FIN, or an acknowledgement with SACK blocks
	}
	return l4, hdr, mergeableTCP
}

// endsStream reports whether a segment has FIN, so that nothing can follow it.
func endsStream(tcp header.TCP) bool { return tcp.Flags()&header.TCPFlagFin != 0 }

// sameFlow reports whether two packets have the same addresses and ports.
func sameFlow(a []byte, al4 int, b []byte, bl4 int) bool {
	if al4 != bl4 || !bytes.Equal(a[al4:al4+4], b[bl4:bl4+4]) {
		return false
	}
	if al4 == header.IPv4MinimumSize {
		return bytes.Equal(a[12:20], b[12:20])
	}
	return bytes.Equal(a[8:40], b[8:40])
}

// deliver passes a copy of packet up.
func deliver(packet []byte, up stack.NetworkDispatcher) {
	deliverView(buffer.NewViewWithData(packet), up)
}

// deliverView passes a packet up and takes over v.
func deliverView(v *buffer.View, up stack.NetworkDispatcher) {
	var proto tcpip.NetworkProtocolNumber = header.IPv4ProtocolNumber
	if v.AsSlice()[0]>>4 == 6 {
		proto = header.IPv6ProtocolNumber
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	up.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}
