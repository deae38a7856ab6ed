package filter

import "encoding/binary"

// IP protocol numbers that the filter treats specially.
const (
	protoICMPv4 = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	protoTSMP   = 99
	protoSCTP   = 132
)

// headers are the fields of a packet that the filter uses.
type headers struct {
	family           family
	proto            uint8
	answer           bool // a TCP segment other than an initial SYN, an ICMP echo reply or an ICMP error
	src, dst         ip
	srcPort, dstPort uint16 // zero if the protocol has no ports
}

// parse parses an IP packet and ignores padding behind it. It reports false for packets that no
// rule can allow: malformed ones, fragments other than the first, and those to multicast and
// link-local destinations.
func (h *headers) parse(b []byte) bool {
	if len(b) < 20 {
		return false
	}
	switch b[0] >> 4 {
	case 4:
		return h.parseIPv4(b)
	case 6:
		return h.parseIPv6(b)
	}
	return false
}

func (h *headers) parseIPv4(b []byte) bool {
	size, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if size < 20 || total < size || total > len(b) {
		return false
	}
	h.family, h.proto = ipv4, b[9]
	h.src = ip{lo: uint64(binary.BigEndian.Uint32(b[12:]))}
	h.dst = ip{lo: uint64(binary.BigEndian.Uint32(b[16:]))}
	switch {
	case h.proto == 0: // the hop-by-hop options of IPv6, in IPv4
		return false
	case b[16]>>4 == 14, b[16] == 169 && b[17] == 254 && h.dst.lo != metadataServer:
		return false
	case binary.BigEndian.Uint16(b[6:])&0x1fff != 0: // the fragment offset
		return false
	}
	return h.parseTransport(b[size:total])
}

// metadataServer is 169.254.169.254, the metadata service of cloud providers: the only link-local
// address that is routed.
const metadataServer = 169<<24 | 254<<16 | 169<<8 | 254

func (h *headers) parseIPv6(b []byte) bool {
	if len(b) < 40 {
		return false
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return false
	}
	h.family = ipv6
	h.src = ip{binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
	h.dst = ip{binary.BigEndian.Uint64(b[24:]), binary.BigEndian.Uint64(b[32:])}
	if b[24] == 0xff || b[24] == 0xfe && b[25]>>6 == 2 {
		return false
	}
	return h.skipExtensions(b[6], b[40:total])
}

// skipExtensions parses the transport header behind the extension headers (RFC 8200, section 4).
// The netstack skips the same extension headers, so that both see the same transport header.
func (h *headers) skipExtensions(next uint8, b []byte) bool {
	const hopByHop, routing, fragment, destination = 0, 43, 44, 60
	for {
		switch next {
		case hopByHop, routing, destination:
			if len(b) < 8 || len(b) < 8+8*int(b[1]) {
				return false
			}
			next, b = b[0], b[8+8*int(b[1]):]
		case fragment:
			if len(b) < 8 || binary.BigEndian.Uint16(b[2:])&^7 != 0 { // the fragment offset
				return false
			}
			next, b = b[0], b[8:]
		default:
			h.proto = next
			return h.parseTransport(b)
		}
	}
}

// parseTransport parses the transport header, which must be complete.
func (h *headers) parseTransport(b []byte) bool {
	switch h.proto {
	case protoTCP:
		if len(b) < 20 {
			return false
		}
		const syn, ack = 2, 16
		h.answer = b[13]&(syn|ack) != syn
	case protoUDP, protoSCTP:
		if len(b) < 8 {
			return false
		}
	case protoICMPv4, protoICMPv6:
		if len(b) < 8 {
			return false
		}
		h.answer = h.icmp() && isAnswer(h.proto, b[0])
		return true
	default:
		return true
	}
	h.srcPort, h.dstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	return true
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
	const unreachable, parameterProblem, echoReply = 1, 4, 129 // 2 and 3 are errors too
	return icmpType >= unreachable && icmpType <= parameterProblem || icmpType == echoReply
}

// icmp reports whether the packet is ICMP of its own address family. ICMP of the other family is
// treated as an unknown protocol.
func (h *headers) icmp() bool {
	return h.family == ipv4 && h.proto == protoICMPv4 || h.family == ipv6 && h.proto == protoICMPv6
}

// tracked reports whether flows of the packet's protocol are kept in the flow table.
func (h *headers) tracked() bool { return h.proto == protoUDP || h.proto == protoSCTP }

// flow returns the packet's flow as seen from this node.
func (h *headers) flow(local ip, localPort uint16, remote ip, remotePort uint16) flow {
	kind := uint64(h.family)<<40 | uint64(h.proto)<<32
	return flow{local.hi, local.lo, remote.hi, remote.lo, kind | uint64(localPort)<<16 | uint64(remotePort)}
}
