package userstack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Flow is an inbound packet that would begin something: a TCP SYN, a UDP datagram or an ICMP echo
// request that answers nothing the stack has sent. Ports are zero where the protocol has none.
type Flow struct {
	Protocol uint8 // IP protocol number
	Src, Dst netip.AddrPort
	Packet   []byte // all of it, for the time of the call
}

// IP protocol numbers that a Filter is asked about.
const (
	ICMPv4 = uint8(header.ICMPv4ProtocolNumber)
	TCP    = uint8(header.TCPProtocolNumber)
	UDP    = uint8(header.UDPProtocolNumber)
	ICMPv6 = uint8(header.ICMPv6ProtocolNumber)
)

// A Filter decides whether a flow from outside may begin. It is called for each packet that is no
// answer, from several goroutines, and must be quick. What it refuses is dropped without an answer;
// TellRejected gives one. What it lets in and nobody listens for is refused as other hosts refuse
// it: by a reset or an ICMP error.
type Filter func(Flow) bool

// SetFilter replaces the filter; nil, which is the state after New, lets nothing in.
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

// accept decides about one inbound IP packet.
//
// Segments of TCP connections that exist, or claim to, pass: the stack itself knows which do.
// Datagrams to a port that an outgoing conn holds pass: the conn knows whom it has spoken to. ICMP
// errors pass because the stack matches the packet they quote. Fragments after the first pass
// because without the first they come to nothing.
func (d *Device) accept(packet []byte) bool {
	p, ok := parsePacket(packet)
	if ok && !p.initiates {
		return true
	}
	if ok && p.proto == UDP && d.clientPorts.has(binary.BigEndian.Uint16(p.l4[2:])) && (!d.isRouter.Load() || d.isOwn(p.flow(packet).Dst.Addr())) {
		return true
	}
	if !ok && d.tsmp && d.answerTSMP(packet) {
		return false // there is nobody above to take it
	}
	if f := d.filter.Load(); ok && f != nil && *f != nil && (*f)(p.flow(packet)) {
		return true
	}
	d.filtered.Add(1)
	return false
}

// isOwn reports whether a is an address of the stack.
func (d *Device) isOwn(a netip.Addr) bool {
	own := d.own.Load()
	return own != nil && slices.Contains(*own, a)
}

// parsedPacket is what the filter needs to know about a packet.
type parsedPacket struct {
	proto     uint8
	l4        []byte // transport header and payload; empty for a later fragment
	initiates bool   // it may begin a flow, so somebody has to allow it
}

// parsePacket reports false for what no rule could allow: malformed packets and protocols the stack
// does not speak.
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

// transport looks at the transport header.
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
		case header.ICMPv6DstUnreachable, header.ICMPv6PacketTooBig, header.ICMPv6TimeExceeded, header.ICMPv6ParamProblem,
			header.ICMPv6EchoReply:
		default:
			p.initiates = true
		}
	default:
		return p, false
	}
	return p, true
}

// flow describes packet, which parsed as p, for a Filter.
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
	return Flow{Protocol: p.proto, Src: netip.AddrPortFrom(src, sport), Dst: netip.AddrPortFrom(dst, dport), Packet: packet}
}

// skipExtensions finds the transport header behind IPv6 extension headers (RFC 8200, section 4). It
// is nil in a later fragment.
func skipExtensions(ip header.IPv6) (proto uint8, l4 []byte, ok bool) {
	proto, l4 = ip.NextHeader(), ip.Payload()
	for {
		switch header.IPv6ExtensionHeaderIdentifier(proto) {
		case header.IPv6HopByHopOptionsExtHdrIdentifier, header.IPv6RoutingExtHdrIdentifier, header.IPv6DestinationOptionsExtHdrIdentifier:
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

// portSet is a set of ports that is read for every inbound datagram, so without a lock. It counts,
// because several conns may hold one port: one on IPv4 and one on IPv6, or each on an address of
// its own.
type portSet [1 << 16]atomic.Uint32

func (s *portSet) has(port uint16) bool { return s[port].Load() != 0 }
func (s *portSet) add(port uint16)      { s[port].Add(1) }
func (s *portSet) remove(port uint16)   { s[port].Add(^uint32(0)) }
