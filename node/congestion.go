package node

import "ginnel/userstack"

// Congestion is how a node decides how fast its TCP connections in the mesh send.
type Congestion = userstack.Congestion

// The ways to decide; see package userstack.
const (
	BBR   = userstack.BBR
	CUBIC = userstack.CUBIC
)

// ParseCongestion reads "bbr" or "cubic".
func ParseCongestion(text string) (Congestion, error) { return userstack.ParseCongestion(text) }
