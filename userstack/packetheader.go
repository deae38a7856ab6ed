package userstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// packetHeader is the start of all packets of a flow: the IP header, and a TCP header whose only
// option is a timestamp.
type packetHeader struct {
	bytes [header.IPv6MinimumSize + header.TCPMinimumSize + tcpOptions]byte
	l4    int // offset of the TCP header
	len   int
}

func (h *packetHeader) size() int { return h.len }

// set copies the headers of a segment of gVisor.
func (h *packetHeader) set(ip []byte, tcp header.TCP) {
	h.l4 = copy(h.bytes[:], ip)
	h.len = h.l4 + copy(h.bytes[h.l4:], tcp[:header.TCPMinimumSize])
	size := header.TCPMinimumSize
	if _, _, ok := timestamps(tcp.Options()); ok {
		h.len += copy(h.bytes[h.len:], tcp[header.TCPMinimumSize:header.TCPMinimumSize+tcpOptions])
		size += tcpOptions
	}
	header.TCP(h.bytes[h.l4:h.len]).SetDataOffset(uint8(size))
}

// timestamps parses the timestamp option if it is in its usual place: first, after two NOPs.
func timestamps(options []byte) (ts, echo uint32, ok bool) {
	if len(options) < tcpOptions || options[0] != header.TCPOptionNOP || options[1] != header.TCPOptionNOP ||
		options[2] != header.TCPOptionTS || options[3] != header.TCPOptionTSLength {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(options[4:]), binary.BigEndian.Uint32(options[8:]), true
}
