package userstack

import (
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// briefSize is what a question has, or an answer that the next question follows soon, in bytes. The rest of a longer one that is
// sent by itself may be as short.
const briefSize = 512

// isBrief reports whether a packet that came alone is one. What only acknowledges is not: it says that the other side takes, not
// that it has something to say.
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
