package userstack

import (
	"encoding/binary"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	tcpFlagsOffset  = 13
	tcpWindowOffset = 14
	tcpSumOffset    = header.TCPChecksumOffset

	// Flags that only the last piece of a cut segment may carry.
	tcpLastFlags = header.TCPFlagFin | header.TCPFlagPsh
)

// segmenter turns the packets that gVisor queued into packets that fit the MTU: TCP segmentation offload, done as late
// as possible. It holds one packet at a time. Its owner is the device's Read.
type segmenter struct {
	pkt  *stack.PacketBuffer
	hdr  []byte   // network and transport header of pkt
	data [][]byte // payload not yet cut
	left int      // bytes in data

	mss int    // payload of a piece; 0: pkt goes out whole
	l4  int    // where the transport header begins in hdr
	seq uint32 // TCP sequence number of the next piece

	malformed atomic.Uint64 // packets that could not be cut
}

func (s *segmenter) empty() bool { return s.pkt == nil }

// load takes over a reference to pkt.
func (s *segmenter) load(pkt *stack.PacketBuffer) {
	slices := pkt.AsSlices()
	s.pkt = pkt
	s.hdr, s.data = slices[0], slices[1:]
	s.l4 = len(pkt.NetworkHeader().Slice())
	s.left = pkt.Size() - len(s.hdr)
	s.mss = 0
	if g := &pkt.GSOOptions; g.Type != stack.GSONone && g.NeedsCsum {
		s.mss = int(g.MSS)
		s.seq = header.TCP(s.hdr[s.l4:]).SequenceNumber()
	}
}

func (s *segmenter) release() {
	s.pkt.DecRef()
	s.pkt, s.hdr, s.data = nil, nil, nil
}

// next writes the next packet to b and returns its size, or 0 if there is none because pkt makes no sense.
func (s *segmenter) next(b []byte) int {
	size := s.left
	if s.mss > 0 {
		size = min(size, s.mss)
	}
	if len(s.hdr)+size > len(b) || s.mss > 0 && len(s.hdr) < s.l4+header.TCPMinimumSize {
		s.malformed.Add(1)
		s.release()
		return 0
	}
	n := copy(b, s.hdr)
	n += s.take(b[n : n+size])
	s.left -= size
	if s.mss > 0 {
		s.finish(b[:n], size)
	}
	if s.left == 0 {
		s.release()
	}
	return n
}

// take moves the next len(b) bytes of payload to b.
func (s *segmenter) take(b []byte) int {
	n := 0
	for n < len(b) {
		c := copy(b[n:], s.data[0])
		n += c
		if s.data[0] = s.data[0][c:]; len(s.data[0]) == 0 {
			s.data = s.data[1:]
		}
	}
	return n
}

// finish makes packet, a copy of the headers and one piece of the payload, a TCP packet of its own.
func (s *segmenter) finish(packet []byte, payload int) {
	tcp := packet[s.l4:]
	binary.BigEndian.PutUint32(tcp[4:], s.seq)
	s.seq += uint32(payload)
	if s.left > 0 {
		tcp[tcpFlagsOffset] &^= byte(tcpLastFlags)
	}

	var pseudo uint16
	switch packet[0] >> 4 {
	case 4:
		ip := header.IPv4(packet)
		ip.SetTotalLength(uint16(len(packet)))
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		pseudo = header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(tcp)))
	default:
		ip := header.IPv6(packet)
		ip.SetPayloadLength(uint16(len(packet) - header.IPv6MinimumSize))
		pseudo = header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(tcp)))
	}
	binary.BigEndian.PutUint16(tcp[tcpSumOffset:], 0)
	binary.BigEndian.PutUint16(tcp[tcpSumOffset:], ^checksum.Checksum(tcp, pseudo))
}
