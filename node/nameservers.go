package node

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"

	"ginnel/internal/meshaddr"
	"ginnel/internal/resolver"
)

const dnsPort = 53

// Nameserver is a DNS server: one at an address, which is asked by UDP and TCP, or one with a URL,
// which is asked by HTTPS (RFC 8484), or by HTTP if it is in the mesh.
type Nameserver struct {
	Addr netip.AddrPort
	URL  string // empty: Addr counts
}

// Nameservers returns the servers at port 53 of addresses.
func Nameservers(addrs ...netip.Addr) (servers []Nameserver) {
	for _, a := range addrs {
		servers = append(servers, Nameserver{Addr: netip.AddrPortFrom(a, dnsPort)})
	}
	return servers
}

// addr is the address of a server; invalid if its URL has a name.
func (s Nameserver) addr() netip.Addr {
	if s.URL == "" {
		return s.Addr.Addr()
	}
	a, _ := netip.ParseAddr(s.hostname())
	return a.Unmap()
}

// hostname is the host in a server's URL.
func (s Nameserver) hostname() string {
	u, err := url.Parse(s.URL)
	if err != nil {
		return ""
	}
	return hostName(u.Hostname())
}

// isHTTP reports whether a server's URL can be asked. Plain HTTP is for addresses of the mesh.
func (s Nameserver) isHTTP() bool {
	u, err := url.Parse(s.URL)
	if err != nil || u.Hostname() == "" {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && meshaddr.Contains(s.addr())
}

// askServers asks the map's DNS servers in their order, each by way of the mesh if it is in it. The
// host's resolv.conf has no say. With Config.MeshOnly those outside the mesh are not asked.
func (n *Node) askServers(ctx context.Context, name string, servers []Nameserver) ([]netip.Addr, error) {
	list, err := n.askable(ctx, servers)
	if err != nil {
		return nil, err
	}
	return n.names.LookupNetIP(ctx, name, list)
}

// exchange passes a query on to the map's DNS servers; see askServers.
func (n *Node) exchange(ctx context.Context, query []byte, servers []Nameserver) ([]byte, error) {
	list, err := n.askable(ctx, servers)
	if err != nil {
		return nil, err
	}
	return n.names.Exchange(ctx, query, list)
}

// askable returns those servers that this node may ask, once it can.
func (n *Node) askable(ctx context.Context, servers []Nameserver) (list []resolver.Server, err error) {
	r := n.routes.Load()
	wait := false
	for _, s := range servers {
		a := s.addr()
		inMesh := a.IsValid() && r.inMesh(a)
		wait = wait || inMesh
		if inMesh || !n.cfg.MeshOnly {
			list = append(list, resolver.Server(s))
		}
	}
	if n.cfg.MeshOnly && len(list) == 0 {
		return nil, errNotOfMesh
	}
	if wait {
		err = n.awaitUp(ctx) // no server is to blame for the time that this takes
	}
	return list, err
}

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
