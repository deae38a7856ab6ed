package userstack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A TSMP rejection tells the sender of a SYN that the filter of the receiver has dropped it. Behind
// the IP header stand '!', the IP protocol, the reason, and the source and destination port of what
// was dropped; bit 0 of an eighth byte means that the receiver is not sure.
const (
	tsmpReject     = '!'
	tsmpRejectSize = 7
	tsmpUncertain  = 0x1

	rejectedByPolicy   = 'A'
	rejectedByShields  = 'S'
	rejectedByFirewall = 'W'
)

// SendRejection tells the sender of a flow that policy does not let it in. A stack that does not
// answer TSMP stays silent.
func (s *Stack) SendRejection(f Flow) {
	if s.dev.tsmp {
		s.dev.sendRaw(tsmpRejection(f))
	}
}

// tsmpRejection builds the packet, from the destination of the flow to its source.
func tsmpRejection(f Flow) []byte {
	body := []byte{tsmpReject, f.Protocol, rejectedByPolicy, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(body[3:], f.Src.Port())
	binary.BigEndian.PutUint16(body[5:], f.Dst.Port())
	return tsmpPacket(f.Dst.Addr(), f.Src.Addr(), body)
}

// tsmpPacket puts an IP header before body.
func tsmpPacket(src, dst netip.Addr, body []byte) []byte {
	if src.Is4() {
		b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(body))
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(cap(b)), TTL: 64, Protocol: tsmpProtocol,
			SrcAddr: addressOf(src), DstAddr: addressOf(dst)})
		ip.SetChecksum(^ip.CalculateChecksum())
		return append(b, body...)
	}
	b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(body))
	header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(body)), TransportProtocol: tsmpProtocol,
		HopLimit: 64, SrcAddr: addressOf(src), DstAddr: addressOf(dst)})
	return append(b, body...)
}

// receiveRejection passes on a rejection of a connection that this stack began. WireGuard has checked
// who sent it.
func (d *Device) receiveRejection(packet, payload []byte) {
	unsure := len(payload) > tsmpRejectSize && payload[tsmpRejectSize]&tsmpUncertain != 0
	if d.onRejected == nil || len(payload) < tsmpRejectSize || payload[1] != TCP || unsure {
		return
	}
	switch payload[2] {
	case rejectedByPolicy, rejectedByShields, rejectedByFirewall:
		ends := parsedPacket{}.flow(packet)
		d.onRejected(netip.AddrPortFrom(ends.Src.Addr(), binary.BigEndian.Uint16(payload[5:])))
	}
}
