//go:build !linux

package transport

import "net"

// newSocket wraps a socket of the system.
func newSocket(c *net.UDPConn, drops *counters) (socket, error) {
	return plainSocket{c, drops}, nil
}

// isDrop reports whether a send error means that just this datagram is lost.
func isDrop(error) bool { return false }

// isUnreachable reports whether a send error says that the destination cannot be reached.
func isUnreachable(error) bool { return false }
