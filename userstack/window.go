package userstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// lowerWindow subtracts one unit from the window in a TCP header, both outbound and inbound.
//
// A window is rounded down to its unit when it is written (RFC 7323, section 2.4), so while it
// fills, its right edge moves left by less than one unit. gVisor then rejects data that were
// allowed before: the last bytes of the window, although nothing was lost, and every
// acknowledgement that follows them in sequence. If one side reads only after the other has
// acknowledged its own bytes, as an echo server does, the connection stalls for ever. With one unit
// less the sender never reaches the part that may be rejected. That is needed outbound, because
// this stack rejects such data, and inbound, because the peer may be a gVisor too.
//
// A window of one unit is left alone, because a peer with large units may never offer more. The
// window of a SYN is left alone, because it is not scaled.
func lowerWindow(tcp header.TCP) {
	if w := tcp.WindowSize(); w > 1 && tcp.Flags()&header.TCPFlagSyn == 0 {
		binary.BigEndian.PutUint16(tcp[tcpWindowOffset:], w-1)
	}
}
