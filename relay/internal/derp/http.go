package derp

import (
	"fmt"

	"ginnel/key"
)

// This file has what both ends of the HTTP upgrade need (1.6 to 1.8).

const (
	// HeaderFastStart, with the value 1, announces that ClientInfo follows the request without
	// waiting for the answer (1.7).
	HeaderFastStart = "Derp-Fast-Start"
	// HeaderIdealNode names the node that the client would have preferred to reach.
	HeaderIdealNode = "Ideal-Node"
	// WebSocketProtocol is the WebSocket subprotocol of DERP (1.8).
	WebSocketProtocol = "derp"
)

// AppendSwitching appends a server's answer to a native upgrade. Clients expect exactly these lines
// (1.6).
func AppendSwitching(b []byte, server key.NodePublic) []byte {
	return fmt.Appendf(b, "HTTP/1.1 101 Switching Protocols\r\n"+
		"Upgrade: DERP\r\n"+
		"Connection: Upgrade\r\n"+
		"Derp-Version: %d\r\n"+
		"Derp-Public-Key: %x\r\n\r\n", ProtocolVersion, server[:])
}
