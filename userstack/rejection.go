package userstack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A TSMP rejection tells the sender of a SYN that the receiver's filter has dropped it. After the
// IP header come '!', the IP protocol, the reason, and the source and destination ports of the
// dropped packet. If there is an eighth byte, its bit 0 says that the receiver is not certain of
// the drop.
const (
	tsmpReject     = '!'
	tsmpRejectSize = 7
	tsmpUncertain  = 0x1

	rejectedByPolicy   = 'A'
	rejectedByShields  = 'S'
	rejectedByFirewall = 'W'
)

// SendRejection tells the source of a flow that policy rejects it. It does nothing unless
// Config.AnswerTSMP is set.
func (s *Stack) SendRejection(f Flow) {
	if s.dev.tsmp {
		s.dev.sendRaw(tsmpRejection(f))
	}
}

// tsmpRejection builds the rejection, from the destination of the flow to its source.
func tsmpRejection(f Flow) []byte {
	body := []byte{tsmpReject, f.Protocol, rejectedByPolicy, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(body[3:], f.Src.Port())
	binary.BigEndian.PutUint16(body[5:], f.Dst.Port())
	return tsmpPacket(f.Dst.Addr(), f.Src.Addr(), body)
}

// tsmpPacket prepends an IP header to body.
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

// receiveRejection handles a rejection of a connection that this stack has dialed. WireGuard has
// authenticated the sender.
func (d *Device) receiveRejection(packet, payload []byte) {
	uncertain := len(payload) > tsmpRejectSize && payload[tsmpRejectSize]&tsmpUncertain != 0
	if d.onRejected == nil || len(payload) < tsmpRejectSize || payload[1] != TCP || uncertain {
		return
	}
	switch payload[2] {
	case rejectedByPolicy, rejectedByShields, rejectedByFirewall:
		ends := parsedPacket{}.flow(packet)
		d.onRejected(netip.AddrPortFrom(ends.Src.Addr(), binary.BigEndian.Uint16(payload[5:])))
	}
}
