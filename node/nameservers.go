package node

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"

	"ginnel/internal/resolver"
)

// askServers asks the map's DNS servers in their order, each by way of the mesh if it is in it. The
// host's resolv.conf has no say. With Config.MeshOnly those outside the mesh are not asked.
func (n *Node) askServers(ctx context.Context, name string, servers []netip.AddrPort) ([]netip.Addr, error) {
	r := n.routes.Load()
	inMesh := func(s netip.AddrPort) bool { return r.inMesh(s.Addr()) }
	if n.cfg.MeshOnly {
		servers = slices.DeleteFunc(slices.Clone(servers), func(s netip.AddrPort) bool { return !inMesh(s) })
		if len(servers) == 0 {
			return nil, errNotOfMesh
		}
	}
	if slices.ContainsFunc(servers, inMesh) {
		if err := n.awaitUp(ctx); err != nil { // no server is to blame for the time that this takes
			return nil, err
		}
	}
	return n.names.LookupNetIP(ctx, name, servers)
}

// newResolver makes the part that asks DNS servers.
func newResolver(n *Node) *resolver.Resolver { return &resolver.Resolver{Dial: n.dialAddr} }

// preferred sorts the addresses of a name as RFC 6724 does (section 6, rules 1 and 6): first those
// of a family in which there is a way to them, and of these global IPv6 before IPv4 before unique
// local IPv6. Otherwise their order stays.
func (n *Node) preferred(addrs []netip.Addr) []netip.Addr {
	isIPv4 := func(a netip.Addr) bool { return a.Unmap().Is4() }
	if slices.ContainsFunc(addrs, isIPv4) == !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !isIPv4(a) }) {
		return addrs // one family, or none
	}
	ranks := make(map[netip.Addr]int, len(addrs))
	for _, a := range addrs {
		ranks[a] = precedence(a)
		if !n.hasFamily(a.Unmap()) {
			ranks[a] += unreachable
		}
	}
	sorted := slices.Clone(addrs)
	slices.SortStableFunc(sorted, func(a, b netip.Addr) int { return cmp.Compare(ranks[a], ranks[b]) })
	return sorted
}

// unreachable is more than every precedence.
const unreachable = 10

// precedence is lower for what is tried first: the policy table of RFC 6724, section 2.1.
func precedence(a netip.Addr) int {
	switch {
	case a.Unmap().Is4():
		return 1
	case a.IsPrivate(), a.IsLoopback(): // unique local; few services are on ::1 alone
		return 2
	}
	return 0
}

// hasFamily reports whether this node, or the host if a is outside the mesh, has an address from
// which to speak to a.
func (n *Node) hasFamily(a netip.Addr) bool {
	if n.routes.Load().inMesh(a) {
		return slices.ContainsFunc(n.stack.Addrs(), func(own netip.Addr) bool { return own.Is4() == a.Is4() })
	}
	if n.cfg.DialHost != nil {
		return true // nobody knows how it gets there
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, dnsPort))) // sends nothing
	if err != nil {
		return false
	}
	c.Close()
	return true
}
