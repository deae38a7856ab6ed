// Package share divides a limited resource fairly among sources, such as client addresses, so that
// no source takes all of it. [Table] tracks who holds how many of a limited number of things,
// [Budget] divides an amount, [Rate] bounds events per span of time, and [Lines] bounds log lines.
// The package has no clock and starts no goroutines.
package share

import "net/netip"

// sourceBits6 is the prefix length that identifies a source in IPv6, because a host may use any
// address of its /64 (RFC 4291, section 2.5.4).
const sourceBits6 = 64

// SourceOf returns the source of an address: the address itself for IPv4, its /64 for IPv6. An
// IPv4-mapped address counts as IPv4, and zones are ignored. All invalid addresses, such as that of
// a client of a unix socket, are one source: the zero Prefix.
func SourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = sourceBits6
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// SourceOfHost is SourceOf for "address:port", the form of [net/http.Request.RemoteAddr].
func SourceOfHost(hostport string) netip.Prefix {
	a, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Prefix{}
	}
	return SourceOf(a.Addr())
}
