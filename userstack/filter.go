package userstack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Flow describes an inbound packet that may start something new: a TCP SYN, a UDP datagram or an
// ICMP message that is not an answer to what the stack has sent. Ports are zero for ICMP.
type Flow struct {
	Protocol uint8 // IP protocol number
	Src, Dst netip.AddrPort
	Packet   []byte // the whole packet; valid only during the call
}

// Values of Flow.Protocol.
const (
	ICMPv4 = uint8(header.ICMPv4ProtocolNumber)
	TCP    = uint8(header.TCPProtocolNumber)
	UDP    = uint8(header.UDPProtocolNumber)
	ICMPv6 = uint8(header.ICMPv6ProtocolNumber)
)

// A Filter decides whether a flow may enter. It is called for each packet that is not an answer,
// from several goroutines, and must be fast. A packet that it does not accept is dropped silently;
// see SendRejection. A packet that it accepts and that no socket takes is rejected as by other
// hosts, with a TCP reset or an ICMP error.
type Filter func(Flow) bool

// SetFilter replaces the filter. A nil filter, which is the default, accepts nothing.
func (s *Stack) SetFilter(f Filter) {
	allows := f
	if f != nil {
		f = func(flow Flow) bool {
			if !allows(flow) {
				return false
			}
			s.endTimeWait(flow)
			return true
		}
	}
	s.dev.filter.Store(&f)
}

// accept decides whether an inbound IP packet enters the stack.
//
// TCP segments without SYN, or with ACK, pass, because the stack knows which connections exist.
// Datagrams to the port of a client socket pass, because the socket knows to whom it has sent. ICMP
// errors pass, because the stack compares the packet that they quote with its connections.
// Fragments after the first pass, because they are never reassembled without the first one.
// gVisor's reassembler drops datagrams whose fragments overlap, so that none can overwrite the
// header that the filter has seen (RFC 1858, section 3).
func (d *Device) accept(packet []byte) bool {
	p, ok := parsePacket(packet)
	if ok && !p.initiates {
		return true
	}
	if ok && p.proto == UDP && d.clientPorts.has(binary.BigEndian.Uint16(p.l4[2:])) &&
		(!d.isRouter.Load() || d.isOwn(p.flow(packet).Dst.Addr())) {
		return true
	}
	if !ok && d.tsmp && d.answerTSMP(packet) {
		return false // gVisor has no handler for TSMP
	}
	if f := d.filter.Load(); ok && f != nil && *f != nil && (*f)(p.flow(packet)) {
		return true
	}
	d.filtered.Add(1)
	return false
}

// isOwn reports whether a is one of the stack's addresses.
func (d *Device) isOwn(a netip.Addr) bool { return slices.Contains(*d.own.Load(), a) }

// parsedPacket is what accept needs to know about a packet.
type parsedPacket struct {
	proto     uint8
	l4        []byte // transport header and payload; empty in a fragment after the first
	initiates bool   // it may start a flow, so the filter must accept it
}

// parsePacket parses the headers of packet. It reports false if no filter may accept the packet: it
// is malformed, or of a protocol that the stack does not support.
func parsePacket(packet []byte) (p parsedPacket, ok bool) {
	if len(packet) < header.IPv4MinimumSize {
		return p, false
	}
	switch packet[0] >> 4 {
	case 4:
		ip := header.IPv4(packet)
		if !ip.IsValid(len(packet)) {
			return p, false
		}
		p.proto = ip.Protocol()
		if ip.FragmentOffset() != 0 {
			return p, true
		}
		p.l4 = packet[ip.HeaderLength():ip.TotalLength()]
	case 6:
		ip := header.IPv6(packet)
		if !ip.IsValid(len(packet)) {
			return p, false
		}
		p.proto, p.l4, ok = skipExtensions(ip)
		if !ok || p.l4 == nil {
			return p, ok
		}
	default:
		return p, false
	}
	return p.transport()
}

// transport parses the transport header.
func (p parsedPacket) transport() (parsedPacket, bool) {
	switch p.proto {
	case TCP:
		if len(p.l4) < header.TCPMinimumSize {
			return p, false
		}
		flags := header.TCP(p.l4).Flags()
		p.initiates = flags&header.TCPFlagSyn != 0 && flags&header.TCPFlagAck == 0
	case UDP:
		p.initiates = true
		return p, len(p.l4) >= header.UDPMinimumSize
	case ICMPv4:
		if len(p.l4) < header.ICMPv4MinimumSize {
			return p, false
		}
		switch header.ICMPv4(p.l4).Type() {
		case header.ICMPv4DstUnreachable, header.ICMPv4TimeExceeded, header.ICMPv4ParamProblem, header.ICMPv4EchoReply:
		default:
			p.initiates = true
		}
	case ICMPv6:
		if len(p.l4) < header.ICMPv6MinimumSize {
			return p, false
		}
		switch header.ICMPv6(p.l4).Type() {
		case header.ICMPv6DstUnreachable, header.ICMPv6PacketTooBig, header.ICMPv6TimeExceeded,
			header.ICMPv6ParamProblem, header.ICMPv6EchoReply:
		default:
			p.initiates = true
		}
	default:
		return p, false
	}
	return p, true
}

// flow makes the Flow of packet. The zero parsedPacket makes one without protocol and ports.
func (p parsedPacket) flow(packet []byte) Flow {
	var src, dst netip.Addr
	if packet[0]>>4 == 4 {
		src, dst = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
	} else {
		src, dst = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
	}
	var sport, dport uint16
	if p.proto == TCP || p.proto == UDP {
		sport, dport = binary.BigEndian.Uint16(p.l4), binary.BigEndian.Uint16(p.l4[2:])
	}
	return Flow{
		Protocol: p.proto,
		Src:      netip.AddrPortFrom(src, sport),
		Dst:      netip.AddrPortFrom(dst, dport),
		Packet:   packet,
	}
}

// skipExtensions returns the transport header behind the IPv6 extension headers (RFC 8200, section
// 4). It is nil in a fragment after the first.
func skipExtensions(ip header.IPv6) (proto uint8, l4 []byte, ok bool) {
	proto, l4 = ip.NextHeader(), ip.Payload()
	for {
		switch header.IPv6ExtensionHeaderIdentifier(proto) {
		case header.IPv6HopByHopOptionsExtHdrIdentifier, header.IPv6RoutingExtHdrIdentifier,
			header.IPv6DestinationOptionsExtHdrIdentifier:
			if len(l4) < 8 || len(l4) < 8+8*int(l4[1]) {
				return 0, nil, false
			}
			proto, l4 = l4[0], l4[8+8*int(l4[1]):]
		case header.IPv6FragmentExtHdrIdentifier:
			if len(l4) < 8 {
				return 0, nil, false
			}
			if binary.BigEndian.Uint16(l4[2:])&^7 != 0 {
				return l4[0], nil, true
			}
			proto, l4 = l4[0], l4[8:]
		default:
			return proto, l4, true
		}
	}
}

// portSet is a set of ports. It is read for every inbound datagram, and therefore needs no lock. It
// counts the sockets of each port, because several may share one: on IPv4 and IPv6, or on different
// addresses.
type portSet [1 << 16]atomic.Uint32

func (s *portSet) has(port uint16) bool { return s[port].Load() != 0 }
func (s *portSet) add(port uint16)      { s[port].Add(1) }
func (s *portSet) remove(port uint16)   { s[port].Add(^uint32(0)) }
