package userstack

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// TSMP is a protocol of the mesh directly above IP: nodes ask with it whether another one answers,
// from within the tunnel and past every filter (control specification, section 6.2). A ping is 'p'
// and eight bytes, which the answer repeats after 'o', followed by the port of a service that we do
// not have.
const (
	tsmpProtocol = 99
	tsmpPing     = 'p'
	tsmpPong     = 'o'
	tsmpPingSize = 9
)

// answerTSMP takes a TSMP packet to one of our addresses: it answers a ping and passes on a
// rejection. It reports whether the packet was TSMP at all.
func (d *Device) answerTSMP(packet []byte) bool {
	payload, ok := tsmpPayload(packet)
	if !ok {
		return false
	}
	if len(payload) == 0 || !d.isOwn(parsedPacket{}.flow(packet).Dst.Addr()) {
		return true
	}
	switch {
	case payload[0] == tsmpPing && len(payload) >= tsmpPingSize:
		d.sendRaw(tsmpReply(packet, payload[1:tsmpPingSize]))
	case payload[0] == tsmpReject:
		d.receiveRejection(packet, payload)
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
	f := parsedPacket{}.flow(packet)
	return tsmpPacket(f.Dst.Addr(), f.Src.Addr(), append(append([]byte{tsmpPong}, data...), 0, 0))
}

// sendRaw sends a packet that gVisor knows nothing of; it is dropped if there is no room.
func (d *Device) sendRaw(packet []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	defer pkt.DecRef()
	d.queueTo(packet).enqueue(pkt)
}
