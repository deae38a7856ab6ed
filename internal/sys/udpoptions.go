package sys

import "net"

// AllowFragments lets routers fragment the datagrams of a socket (IP_MTU_DISCOVER off), as the
// kernel's WireGuard does. Otherwise a datagram would be lost for ever on a path with a smaller MTU
// whose routers do not say so.
func AllowFragments(c *net.UDPConn) error { return allowFragments(c) }

// ShareUDPPort opens n-1 further sockets on the port of first (SO_REUSEPORT) and has the kernel
// choose among all n by the datagram: one whose first four bytes are the little-endian number kind
// goes to the socket given by the low bits of its fifth byte, every other one to first. n is a
// power of two. Other users' processes cannot join the port (socket(7)). In portable builds the
// error is errors.ErrUnsupported; after any error first is as before.
func ShareUDPPort(first *net.UDPConn, network string, n int, kind byte) (more []*net.UDPConn, err error) {
	return shareUDPPort(first, network, n, kind)
}
