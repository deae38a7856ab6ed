package userstack

import (
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// briefSize is what a question has in bytes, or an answer that the next question follows soon. The
// end of much may be as short: few of its packets are.
const briefSize = 512

// isBrief reports whether a packet that came alone may be a question or an answer. What only
// acknowledges is neither.
func isBrief(packet []byte) bool {
	if len(packet) > briefSize {
		return false
	}
	l4, hdr, k := classify(packet)
	return k == notTCP || hdr != len(packet) || header.TCP(packet[l4:]).Flags() != header.TCPFlagAck
}

// isBriefPacket is isBrief for one that gVisor made.
func isBriefPacket(pkt *stack.PacketBuffer) bool {
	if pkt.Size() > briefSize {
		return false
	}
	return pkt.TransportProtocolNumber != header.TCPProtocolNumber || pkt.Data().Size() > 0 ||
		header.TCP(pkt.TransportHeader().Slice()).Flags() != header.TCPFlagAck
}
