//go:build !linux

package transport

import "net"

// tune leaves a socket as it is.
func tune(*net.UDPConn) error { return nil }

// isUnreachable reports whether a send error says that the destination cannot be reached.
func isUnreachable(error) bool { return false }
