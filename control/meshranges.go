package control

import "net/netip"

// The ranges from which nodes have their addresses.
var (
	meshRange4 = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	meshRange6 = netip.MustParsePrefix("fd7a:115c:a1e0::/48")

	// via6 is the part of meshRange6 that no node has an address in: there the networks of IPv4 subnet
	// routers have addresses of their own ("4via6").
	via6 = netip.MustParsePrefix("fd7a:115c:a1e0:b1a::/64")
)

// OverlapsMesh reports whether a route would take addresses of nodes. It must not be used: a router
// could so be sent what is meant for another node. A default route takes only what nothing else does.
func OverlapsMesh(route netip.Prefix) bool {
	if route.Bits() == 0 || route.Bits() >= via6.Bits() && via6.Contains(route.Addr()) {
		return false
	}
	return route.Overlaps(meshRange4) || route.Overlaps(meshRange6)
}
