package userstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"ginnel/internal/snoop"
)

// maxSACKBlocks is how many blocks the option holds (RFC 2018, section 3).
const maxSACKBlocks = 4

// stripSACK appends the selective acknowledgements in a TCP header to blocks and writes NOPs in
// their place, so that gVisor does not see them. What is malformed is left to gVisor, which refuses
// it.
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
				blocks = append(blocks, snoop.Block{Start: binary.BigEndian.Uint32(b), End: binary.BigEndian.Uint32(b[4:])})
			}
			for i := range option {
				option[i] = header.TCPOptionNOP
			}
			return blocks
		}
	}
	return blocks
}
