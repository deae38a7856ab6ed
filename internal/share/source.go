// Package share divides what is limited among the sources that ask for it, so that no source takes
// all of it. [Table] knows who holds what at one time, [Rate] bounds what happens in a span of
// time, and [Lines] does so for the lines of a log. There is no clock in here and no goroutine.
package share

import "net/netip"

// sourceBits6 is the part of an IPv6 address by which its source is known. A host may use any
// address of its /64 (RFC 4291, section 2.5.4).
const sourceBits6 = 64

// SourceOf returns what an address is counted under: itself for IPv4, its /64 for IPv6. An
// IPv4-mapped address counts as the IPv4 address, and zones are ignored. What has no valid address,
// as the client of a unix socket, is one source together: the zero Prefix.
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

// SourceOfHost is SourceOf for "address:port", as [net/http.Request.RemoteAddr] has it.
func SourceOfHost(hostport string) netip.Prefix {
	a, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Prefix{}
	}
	return SourceOf(a.Addr())
}
