// Package meshaddr holds the address ranges of mesh nodes.
package meshaddr

import "net/netip"

// The ranges from which nodes get their addresses, unless a server is configured otherwise.
var (
	range4 = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	range6 = netip.MustParsePrefix("fd7a:115c:a1e0::/48")

	// chromeOS is the part of range4 that ChromeOS uses for its containers.
	chromeOS = netip.MustParsePrefix("100.115.92.0/23")

	// via6 is the part of range6 in which IPv4 subnets behind routers get IPv6 addresses ("4via6"). No
	// node has an address in it.
	via6 = netip.MustParsePrefix("fd7a:115c:a1e0:b1a::/64")

	// service4 and service6 are the addresses of the service that each client runs for its own host,
	// such as its DNS resolver (control specification, section 8).
	service4 = netip.MustParseAddr("100.100.100.100")
	service6 = netip.MustParseAddr("fd7a:115c:a1e0::53")
)

// Ranges returns the ranges of node addresses.
func Ranges() (v4, v6 netip.Prefix) { return range4, range6 }

// IsReserved reports whether a must not be given to a node although it is in one of the ranges.
func IsReserved(a netip.Addr) bool {
	return a == service4 || a == service6 || chromeOS.Contains(a)
}

// Contains reports whether a is an address of a mesh: of this one, or of another mesh that the host
// is in.
func Contains(a netip.Addr) bool {
	return range4.Contains(a) && !chromeOS.Contains(a) || range6.Contains(a)
}

// TakenBy reports whether a route would cover addresses of nodes. Such a route must not be used,
// because packets to a node would go to the router. A default route is allowed: it is used only for
// destinations that nothing else covers.
func TakenBy(route netip.Prefix) bool {
	if route.Bits() == 0 || route.Bits() >= via6.Bits() && via6.Contains(route.Addr()) {
		return false
	}
	return route.Overlaps(range4) || route.Overlaps(range6)
}
