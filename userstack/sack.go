package userstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"ginnel/internal/snoop"
)

// maxSACKBlocks is the largest number of blocks in a SACK option (RFC 2018, section 3).
const maxSACKBlocks = 4

// stripSACK appends the SACK blocks in a TCP header to blocks and overwrites the option with NOPs,
// so that gVisor does not see them. Malformed options are left for gVisor, which drops the packet.
func stripSACK(tcp header.TCP, blocks []snoop.Block) []snoop.Block {
	o := tcp.Options()
	if len(o) == tcpOptions && o[2] == header.TCPOptionTS {
		return blocks
	}
	for len(o) > 0 {
		switch {
		case o[0] == header.TCPOptionEOL:
			return blocks
		case o[0] == header.TCPOptionNOP:
			o = o[1:]
			continue
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return blocks
		}
		option := o[:o[1]]
		if o = o[o[1]:]; option[0] == header.TCPOptionSACK {
			for b := option[2:]; len(b) >= 8; b = b[8:] {
				start, end := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
				blocks = append(blocks, snoop.Block{Start: start, End: end})
			}
			for i := range option {
				option[i] = header.TCPOptionNOP
			}
			return blocks
		}
	}
	return blocks
}
