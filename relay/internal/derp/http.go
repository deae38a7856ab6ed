package derp

import (
	"fmt"

	"ginnel/internal/key"
)

// This file is what both ends of the HTTP upgrade have in common (1.6 to 1.8).

const (
	// headerFastStart, with the value 1, announces that ClientInfo follows the request at once (1.7).
	HeaderFastStart = "Derp-Fast-Start"
	// HeaderIdealNode names the node that the client would rather have reached.
	HeaderIdealNode = "Ideal-Node"
	// WebSocketProtocol is the subprotocol of DERP in a WebSocket (1.8).
	WebSocketProtocol = "derp"
)

// AppendSwitching appends the answer of a server to a native upgrade: exactly these lines (1.6).
func AppendSwitching(b []byte, server key.NodePublic) []byte {
	return fmt.Appendf(b, "HTTP/1.1 101 Switching Protocols\r\n"+
		"Upgrade: DERP\r\n"+
		"Connection: Upgrade\r\n"+
		"Derp-Version: %d\r\n"+
		"Derp-Public-Key: %x\r\n\r\n", ProtocolVersion, server[:])
}
