package userstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// lowerWindow takes one unit from the window in a TCP header, on the way out and on the way in.
//
// A window is rounded down as it is written (RFC 7323, section 2.4), so that its right edge moves
// to the left, by less than a unit, while it fills. gVisor then refuses what was allowed before:
// the last bytes, without any loss on the way, and every acknowledgement that comes after them in
// sequence. If the one side reads only once the other has acknowledged its own bytes, as an echo
// does, nothing moves again. A unit less, and nothing reaches into what may be refused, be the
// receiver this stack or a peer that is a gVisor too.
//
// A window of one unit stays: a peer whose units are large might have no more to give. So does that
// of a SYN, which is not in units.
func lowerWindow(tcp header.TCP) {
	if w := tcp.WindowSize(); w > 1 && tcp.Flags()&header.TCPFlagSyn == 0 {
		binary.BigEndian.PutUint16(tcp[tcpWindowOffset:], w-1)
	}
}
