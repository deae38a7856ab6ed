// Package meshaddr knows the addresses that nodes of a mesh have.
package meshaddr

import "net/netip"

// The ranges from which nodes have their addresses, unless a server is configured otherwise.
var (
	range4 = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	range6 = netip.MustParsePrefix("fd7a:115c:a1e0::/48")

	// chromeOS is a part of range4 that ChromeOS uses for its containers.
	chromeOS = netip.MustParsePrefix("100.115.92.0/23")

	// via6 is the part of range6 that no node has an address in: there the networks of IPv4 subnet
	// routers have addresses of their own ("4via6").
	via6 = netip.MustParsePrefix("fd7a:115c:a1e0:b1a::/64")
)

// Ranges returns the two ranges.
func Ranges() (v4, v6 netip.Prefix) { return range4, range6 }

// Contains reports whether an address is a mesh's, this one's or another's on the same host.
func Contains(a netip.Addr) bool {
	return range4.Contains(a) && !chromeOS.Contains(a) || range6.Contains(a)
}

// TakenBy reports whether a route would take addresses of nodes. Such a route must not be used: a
// router could so be sent what is meant for another node. A default route takes only what nothing
// else does.
func TakenBy(route netip.Prefix) bool {
	if route.Bits() == 0 || route.Bits() >= via6.Bits() && via6.Contains(route.Addr()) {
		return false
	}
	return route.Overlaps(range4) || route.Overlaps(range6)
}
