package userstack

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// TSMP is a protocol of the mesh directly above IP: nodes ask with it whether another one answers, from within the
// tunnel and past every filter (control specification, section 6.2). A ping is 'p' and eight bytes, which the answer
// repeats after 'o', followed by the port of a service that we do not have.
const (
	tsmpProtocol = 99
	tsmpPing     = 'p'
	tsmpPong     = 'o'
	tsmpPingSize = 9
	tsmpPongSize = 11
)

// answerTSMP answers packet if it is a TSMP ping to one of our addresses, and reports whether it was TSMP at all.
func (d *Device) answerTSMP(packet []byte) bool {
	payload, ok := tsmpPayload(packet)
	if !ok {
		return false
	}
	if len(payload) >= tsmpPingSize && payload[0] == tsmpPing && d.isOwn(parsed{}.flow(packet).Dst.Addr()) {
		d.sendRaw(tsmpReply(packet, payload[1:tsmpPingSize]))
	}
	return true
}

// tsmpPayload is what stands in a TSMP packet behind the IP header.
func tsmpPayload(packet []byte) ([]byte, bool) {
	if len(packet) < header.IPv4MinimumSize {
		return nil, false
	}
	switch packet[0] >> 4 {
	case 4:
		if ip := header.IPv4(packet); ip.IsValid(len(packet)) && ip.Protocol() == tsmpProtocol && ip.FragmentOffset() == 0 {
			return packet[ip.HeaderLength():ip.TotalLength()], true
		}
	case 6:
		if ip := header.IPv6(packet); ip.IsValid(len(packet)) && ip.NextHeader() == tsmpProtocol {
			return ip.Payload(), true
		}
	}
	return nil, false
}

// tsmpReply builds the answer to packet, with its addresses exchanged.
func tsmpReply(packet, data []byte) []byte {
	pong := append(append([]byte{tsmpPong}, data...), 0, 0)
	if packet[0]>>4 == 4 {
		in := header.IPv4(packet)
		b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+tsmpPongSize)
		out := header.IPv4(b)
		out.Encode(&header.IPv4Fields{TotalLength: header.IPv4MinimumSize + tsmpPongSize, TTL: 64, Protocol: tsmpProtocol,
			SrcAddr: in.DestinationAddress(), DstAddr: in.SourceAddress()})
		out.SetChecksum(^out.CalculateChecksum())
		return append(b, pong...)
	}
	in := header.IPv6(packet)
	b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+tsmpPongSize)
	header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: tsmpPongSize, TransportProtocol: tsmpProtocol, HopLimit: 64,
		SrcAddr: in.DestinationAddress(), DstAddr: in.SourceAddress()})
	return append(b, pong...)
}

// sendRaw sends a packet that gVisor knows nothing of; it is dropped if there is no room.
func (d *Device) sendRaw(packet []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	defer pkt.DecRef()
	d.queueTo(packet).enqueue(pkt)
}
