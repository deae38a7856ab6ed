package userstack

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// TSMP is the protocol in which tailscaled's nodes talk about the tunnel within it. Of its messages, the first byte of
// which says what they are, only pings get an answer:
//
//	'p', 8 bytes            ping
//	'o', the same 8 bytes,  pong
//	2 bytes                 port of a service that there is none of here: 0
const TSMP = uint8(99)

const (
	tsmpPing     = 'p'
	tsmpPong     = 'o'
	tsmpPingSize = 1 + 8
	tsmpPongSize = tsmpPingSize + 2
	tsmpTTL      = 64
)

// isTSMPPing reports whether a message is a ping.
func isTSMPPing(message []byte) bool { return len(message) >= tsmpPingSize && message[0] == tsmpPing }

// answerTSMP answers packet, which has been accepted, if it is a ping.
func (d *device) answerTSMP(packet []byte) bool {
	var pong []byte
	switch {
	case packet[0]>>4 == 4 && packet[9] == TSMP:
		ping := header.IPv4(packet)
		if ping.FragmentOffset() != 0 || !isTSMPPing(ping.Payload()) {
			return false
		}
		pong = make([]byte, header.IPv4MinimumSize+tsmpPongSize)
		ip := header.IPv4(pong)
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(pong)), TTL: tsmpTTL, Protocol: TSMP,
			SrcAddr: ping.DestinationAddress(), DstAddr: ping.SourceAddress()})
		ip.SetChecksum(^ip.CalculateChecksum())
		writePong(ip.Payload(), ping.Payload())
	case packet[0]>>4 == 6 && packet[6] == TSMP:
		ping := header.IPv6(packet)
		if !isTSMPPing(ping.Payload()) {
			return false
		}
		pong = make([]byte, header.IPv6MinimumSize+tsmpPongSize)
		ip := header.IPv6(pong)
		ip.Encode(&header.IPv6Fields{PayloadLength: tsmpPongSize, TransportProtocol: tcpip.TransportProtocolNumber(TSMP), HopLimit: tsmpTTL,
			SrcAddr: ping.DestinationAddress(), DstAddr: ping.SourceAddress()})
		writePong(ip.Payload(), ping.Payload())
	default:
		return false
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(pong)})
	d.enqueue(pkt) // one that finds no room is lost, as pings are
	pkt.DecRef()
	return true
}

// writePong makes the answer to a ping.
func writePong(pong, ping []byte) {
	pong[0] = tsmpPong
	copy(pong[1:tsmpPingSize], ping[1:])
}
