package userstack

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// TSMP is a mesh protocol directly above IP (control specification, section 6.2). Nodes use it to
// ask whether another node answers inside the tunnel, regardless of filters. A ping is 'p' and
// eight bytes. The answer is 'o', the same eight bytes, and the port of a service, which is 0 here.
const (
	tsmpProtocol = 99
	tsmpPing     = 'p'
	tsmpPong     = 'o'
	tsmpPingSize = 9
)

// answerTSMP handles a TSMP packet to one of the stack's addresses: it answers a ping and reports a
// rejection. It returns false if the packet is not TSMP.
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

// tsmpPayload returns the payload of a TSMP packet, which follows the IP header.
func tsmpPayload(packet []byte) ([]byte, bool) {
	if len(packet) < header.IPv4MinimumSize {
		return nil, false
	}
	switch packet[0] >> 4 {
	case 4:
		ip := header.IPv4(packet)
		if ip.IsValid(len(packet)) && ip.Protocol() == tsmpProtocol && ip.FragmentOffset() == 0 {
			return packet[ip.HeaderLength():ip.TotalLength()], true
		}
	case 6:
		if ip := header.IPv6(packet); ip.IsValid(len(packet)) && ip.NextHeader() == tsmpProtocol {
			return ip.Payload(), true
		}
	}
	return nil, false
}

// tsmpReply builds the answer to packet, with source and destination exchanged.
func tsmpReply(packet, data []byte) []byte {
	f := parsedPacket{}.flow(packet)
	return tsmpPacket(f.Dst.Addr(), f.Src.Addr(), append(append([]byte{tsmpPong}, data...), 0, 0))
}

// sendRaw sends a packet that gVisor has not made. A full queue drops it.
func (d *Device) sendRaw(packet []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	defer pkt.DecRef()
	d.queueTo(packet).enqueue(pkt)
}
