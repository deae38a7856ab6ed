package userstack

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	tcpAckOffset    = 8
	tcpFlagsOffset  = 13
	tcpWindowOffset = 14
	tcpSumOffset    = header.TCPChecksumOffset
	tcpEchoOffset   = header.TCPMinimumSize + 8 // TSecr, if the only option is a timestamp

	// tcpLastFlags are the flags that only the last packet of a segment carries.
	tcpLastFlags = header.TCPFlagFin | header.TCPFlagPsh
)

// segmenter cuts gVisor's TCP segments into packets that fit the MTU (TCP segmentation offload,
// TSO), as late as possible. It holds one segment at a time and belongs to Queue.Read.
//
// The length of a segment is what the window allows, which may be any number of bytes. If the next
// segment continues the stream, the remainder of the present one, which does not fill a packet, is
// sent together with the start of the next. Packets of equal size leave the machine in one system
// call, and full packets cause fewer acknowledgements.
type segmenter struct {
	pkt       *stack.PacketBuffer
	hdr       []byte       // IP and TCP header of each packet; empty if pkt is not cut
	carried   []byte       // remainder of the segment before, in carriedBuf; precedes rest
	rest      []byte       // the unread part of the current view
	view      *buffer.View // the view after the current one
	remaining int          // payload bytes that are not sent yet, including carried

	mss int    // payload of a full packet; 0 if pkt is not cut
	l4  int    // offset of the TCP header in hdr
	seq uint32 // sequence number of the next packet

	carriedBuf []byte

	malformed atomic.Uint64 // packets longer than the buffer to read into
}

func (s *segmenter) empty() bool { return s.pkt == nil }

// load takes over a reference to pkt.
func (s *segmenter) load(pkt *stack.PacketBuffer) {
	views, offset := pkt.AsViewList()
	s.pkt, s.view, s.rest, s.hdr = pkt, views.Front(), nil, nil
	s.remaining, s.mss = pkt.Size(), 0
	s.skip(offset)
	g := &pkt.GSOOptions
	if g.Type == stack.GSONone || !g.NeedsCsum {
		return
	}
	s.l4 = len(pkt.NetworkHeader().Slice())
	n := s.l4 + len(pkt.TransportHeader().Slice())
	if n > len(s.rest) || n < s.l4+header.TCPMinimumSize {
		return // cannot happen: gVisor puts the headers into one view
	}
	s.mss = cmp.Or(int(g.MSS), maxMTU) // 0 in packets without payload, before gVisor knows the MSS
	s.hdr, s.rest, s.remaining = s.rest[:n], s.rest[n:], s.remaining-n
	s.seq = header.TCP(s.hdr[s.l4:]).SequenceNumber()
}

// hasPartial reports whether the remainder does not fill a packet and may be continued: its flags
// are only ACK and perhaps PSH.
func (s *segmenter) hasPartial() bool {
	return s.pkt != nil && s.mss > 0 && s.remaining > 0 && s.remaining < s.mss &&
		header.TCP(s.hdr[s.l4:]).Flags()&^header.TCPFlagPsh == header.TCPFlagAck
}

// continues reports whether pkt belongs to the same stream and starts where the remainder ends.
func (s *segmenter) continues(pkt *stack.PacketBuffer) bool {
	g := &pkt.GSOOptions
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber || g.Type == stack.GSONone || !g.NeedsCsum ||
		int(g.MSS) != s.mss || pkt.Data().Size() == 0 {
		return false
	}
	ip, tcp := pkt.NetworkHeader().Slice(), header.TCP(pkt.TransportHeader().Slice())
	if len(ip) != s.l4 || len(ip)+len(tcp) != len(s.hdr) || tcp.SequenceNumber() != s.seq+uint32(s.remaining) ||
		tcp.Flags()&^tcpLastFlags != header.TCPFlagAck || !bytes.Equal(tcp[:4], s.hdr[s.l4:s.l4+4]) {
		return false
	}
	if s.l4 == header.IPv4MinimumSize {
		return ip[1] == s.hdr[1] && bytes.Equal(ip[12:], s.hdr[12:s.l4]) // DSCP and ECN, addresses
	}
	return bytes.Equal(ip[:4], s.hdr[:4]) && bytes.Equal(ip[8:], s.hdr[8:s.l4]) // traffic class, flow label, addresses
}

// join loads pkt, which continues the remainder, and takes over a reference to it.
func (s *segmenter) join(pkt *stack.PacketBuffer) {
	left := s.remaining
	if cap(s.carriedBuf) < left {
		s.carriedBuf = make([]byte, s.mss)
	}
	tail := s.carriedBuf[:left]
	s.copyOut(tail)
	s.release()
	s.load(pkt)
	s.carried, s.remaining, s.seq = tail, s.remaining+left, s.seq-uint32(left)
}

// skip skips the first n bytes of the views.
func (s *segmenter) skip(n int) {
	for s.view != nil {
		s.rest = s.view.AsSlice()
		s.view = s.view.Next()
		if n < len(s.rest) {
			s.rest = s.rest[n:]
			return
		}
		n -= len(s.rest)
	}
}

func (s *segmenter) release() {
	s.pkt.DecRef()
	s.pkt, s.hdr, s.carried, s.rest, s.view = nil, nil, nil, nil, nil
}

// next writes the next packet to b and returns its size. If it does not fit, the segment is dropped
// and next returns 0.
func (s *segmenter) next(b []byte) int {
	size := s.remaining
	if s.mss > 0 {
		size = min(size, s.mss)
	}
	if len(s.hdr)+size > len(b) {
		s.malformed.Add(1)
		s.release()
		return 0
	}
	n := copy(b, s.hdr)
	s.copyOut(b[n : n+size])
	s.remaining -= size
	if s.mss > 0 {
		s.finish(b[:n+size], size)
	}
	if s.remaining == 0 {
		s.release()
	}
	return n + size
}

// copyOut copies the next len(b) payload bytes to b.
func (s *segmenter) copyOut(b []byte) {
	n := copy(b, s.carried)
	b, s.carried = b[n:], s.carried[n:]
	for len(b) > 0 {
		if len(s.rest) == 0 {
			s.rest, s.view = s.view.AsSlice(), s.view.Next()
		}
		n := copy(b, s.rest)
		b, s.rest = b[n:], s.rest[n:]
	}
}

// finish turns packet, a copy of hdr and some payload, into a valid TCP packet.
func (s *segmenter) finish(packet []byte, payload int) {
	tcp := packet[s.l4:]
	binary.BigEndian.PutUint32(tcp[4:], s.seq)
	s.seq += uint32(payload)
	if s.remaining > 0 {
		tcp[tcpFlagsOffset] &^= byte(tcpLastFlags)
	}
	lowerWindow(tcp)
	finishTCP(packet, s.l4)
}

// finishTCP sets the lengths and checksums of a TCP packet, whose TCP header begins at l4.
func finishTCP(packet []byte, l4 int) {
	if packet[0]>>4 == 4 {
		ip := header.IPv4(packet)
		ip.SetTotalLength(uint16(len(packet)))
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		header.IPv6(packet).SetPayloadLength(uint16(len(packet) - header.IPv6MinimumSize))
	}
	sumTCP(packet[:l4], packet[l4:])
}

// sumTCP sets the checksum of a TCP segment.
func sumTCP(ip, tcp []byte) {
	src, dst := header.IPv4(ip).SourceAddress, header.IPv4(ip).DestinationAddress
	if ip[0]>>4 == 6 {
		src, dst = header.IPv6(ip).SourceAddress, header.IPv6(ip).DestinationAddress
	}
	pseudo := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src(), dst(), uint16(len(tcp)))
	binary.BigEndian.PutUint16(tcp[tcpSumOffset:], 0)
	binary.BigEndian.PutUint16(tcp[tcpSumOffset:], ^checksum.Checksum(tcp, pseudo))
}
