package filter

import "encoding/binary"

// IP protocol numbers that the filter treats on their own.
const (
	protoICMPv4 = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	protoTSMP   = 99
	protoSCTP   = 132
)

// headers is what the filter needs to know about a packet.
type headers struct {
	family           family
	proto            uint8
	answer           bool // a TCP segment that is no initial SYN, an ICMP echo reply or ICMP error
	src, dst         ip
	srcPort, dstPort uint16 // zero where the protocol has none
}

// parsed is what became of parsing.
type parsed int

const (
	malformed     parsed = iota // or not IP at all
	strayed                     // for a destination that never leaves its link
	laterFragment               // without a transport header
	complete
)

// parse reads an IP packet. Padding behind it is ignored.
func (h *headers) parse(b []byte) parsed {
	if len(b) < 20 {
		return malformed
	}
	switch b[0] >> 4 {
	case 4:
		return h.parseIPv4(b)
	case 6:
		return h.parseIPv6(b)
	}
	return malformed
}

func (h *headers) parseIPv4(b []byte) parsed {
	size, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if size < 20 || total < size || total > len(b) {
		return malformed
	}
	h.family, h.proto = ipv4, b[9]
	h.src = ip{lo: uint64(binary.BigEndian.Uint32(b[12:]))}
	h.dst = ip{lo: uint64(binary.BigEndian.Uint32(b[16:]))}
	switch {
	case h.proto == 0:
		return malformed // an IPv6 option header in IPv4
	case b[16]>>4 == 14, b[16] == 169 && b[17] == 254 && h.dst.lo != metadataServer:
		return strayed
	}
	if offset := int(binary.BigEndian.Uint16(b[6:])&0x1fff) * 8; offset > 0 {
		return h.later(offset)
	}
	return h.parseTransport(b[size:total])
}

// metadataServer is 169.254.169.254, the one link-local address that is routed: hosts of clouds ask
// it about themselves.
const metadataServer = 169<<24 | 254<<16 | 169<<8 | 254

func (h *headers) parseIPv6(b []byte) parsed {
	if len(b) < 40 {
		return malformed
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return malformed
	}
	h.family = ipv6
	h.src = ip{binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
	h.dst = ip{binary.BigEndian.Uint64(b[24:]), binary.BigEndian.Uint64(b[32:])}
	if b[24] == 0xff || b[24] == 0xfe && b[25]>>6 == 2 {
		return strayed
	}
	return h.skipExtensions(b[6], b[40:total])
}

// skipExtensions finds the transport header behind those of RFC 8200, section 4, because the stack
// behind the filter will find it too.
func (h *headers) skipExtensions(next uint8, b []byte) parsed {
	const hopByHop, routing, fragment, destination = 0, 43, 44, 60
	for {
		switch next {
		case hopByHop, routing, destination:
			if len(b) < 8 || len(b) < 8+8*int(b[1]) {
				return malformed
			}
			next, b = b[0], b[8+8*int(b[1]):]
		case fragment:
			if len(b) < 8 {
				return malformed
			}
			next, h.proto = b[0], b[0]
			if offset := int(binary.BigEndian.Uint16(b[2:]) &^ 7); offset > 0 {
				return h.later(offset)
			}
			b = b[8:]
		default:
			h.proto = next
			return h.parseTransport(b)
		}
	}
}

// later judges a fragment that is not the first. It must not begin inside the transport header: by
// overlapping it could change what the filter has seen there (RFC 1858, section 3).
func (h *headers) later(offset int) parsed {
	if offset < 8 || h.proto == protoTCP && offset < 20 {
		return malformed
	}
	return laterFragment
}

// parseTransport reads the transport header, which has to be complete.
func (h *headers) parseTransport(b []byte) parsed {
	switch h.proto {
	case protoTCP:
		if len(b) < 20 {
			return malformed
		}
		const syn, ack = 2, 16
		h.answer = b[13]&(syn|ack) != syn
	case protoUDP, protoSCTP:
		if len(b) < 8 {
			return malformed
		}
	case protoICMPv4, protoICMPv6:
		if len(b) < 8 {
			return malformed
		}
		h.answer = h.icmp() && isAnswer(h.proto, b[0])
		return complete
	default:
		return complete
	}
	h.srcPort, h.dstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	return complete
}

// isAnswer reports whether an ICMP message is an echo reply or an error.
func isAnswer(proto, icmpType uint8) bool {
	if proto == protoICMPv4 {
		const echoReply, unreachable, timeExceeded, parameterProblem = 0, 3, 11, 12
		switch icmpType {
		case echoReply, unreachable, timeExceeded, parameterProblem:
			return true
		}
		return false
	}
	const unreachable, parameterProblem, echoReply = 1, 4, 129 // the errors have all numbers between
	return icmpType >= unreachable && icmpType <= parameterProblem || icmpType == echoReply
}

// icmp reports whether the packet is of the ICMP of its own family; the other's is a protocol like
// any.
func (h *headers) icmp() bool {
	return h.family == ipv4 && h.proto == protoICMPv4 || h.family == ipv6 && h.proto == protoICMPv6
}

// tracked reports whether flows of the protocol are remembered.
func (h *headers) tracked() bool { return h.proto == protoUDP || h.proto == protoSCTP }

// flow is the packet's flow as seen from this node.
func (h *headers) flow(local ip, localPort uint16, remote ip, remotePort uint16) flow {
	kind := uint64(h.family)<<40 | uint64(h.proto)<<32
	return flow{local.hi, local.lo, remote.hi, remote.lo, kind | uint64(localPort)<<16 | uint64(remotePort)}
}
