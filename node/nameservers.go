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

// Nameserver is a DNS server: either one at an address, which is asked over UDP and TCP, or one
// with a URL, which is asked over HTTPS (RFC 8484), or over HTTP if it is in the mesh.
type Nameserver struct {
	Addr netip.AddrPort
	URL  string // empty: the server is at Addr
}

// Nameservers returns servers on port 53.
func Nameservers(addrs ...netip.Addr) (servers []Nameserver) {
	for _, a := range addrs {
		servers = append(servers, Nameserver{Addr: netip.AddrPortFrom(a, dnsPort)})
	}
	return servers
}

// addr returns the address of a server; invalid if its URL has a host name.
func (s Nameserver) addr() netip.Addr {
	if s.URL == "" {
		return s.Addr.Addr()
	}
	a, _ := netip.ParseAddr(s.hostname())
	return a.Unmap()
}

// hostname returns the host in a server's URL.
func (s Nameserver) hostname() string {
	u, err := url.Parse(s.URL)
	if err != nil {
		return ""
	}
	return hostName(u.Hostname())
}

// isHTTP reports whether this node asks the server at a URL. It asks over plain HTTP only in the
// mesh.
func (s Nameserver) isHTTP() bool {
	u, err := url.Parse(s.URL)
	if err != nil || u.Hostname() == "" {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && meshaddr.Contains(s.addr())
}

// askServers resolves a name by asking DNS servers of the map in their order, those in the mesh
// through the mesh. The host's resolv.conf is not read. With Config.MeshOnly, servers outside the
// mesh are not asked.
func (d *dialer) askServers(ctx context.Context, name string, servers []Nameserver) ([]netip.Addr, error) {
	list, err := d.askable(ctx, servers)
	if err != nil {
		return nil, err
	}
	return d.names.LookupNetIP(ctx, name, list)
}

// exchange sends a query to DNS servers of the map; see askServers.
func (d *dialer) exchange(ctx context.Context, query []byte, servers []Nameserver) ([]byte, error) {
	list, err := d.askable(ctx, servers)
	if err != nil {
		return nil, err
	}
	return d.names.Exchange(ctx, query, list)
}

// askable returns the servers that this node may ask, once packets can be sent to them.
func (d *dialer) askable(ctx context.Context, servers []Nameserver) (list []resolver.Server, err error) {
	r := d.plane.routes.Load()
	wait := false
	for _, s := range servers {
		a := s.addr()
		inMesh := a.IsValid() && r.inMesh(a)
		wait = wait || inMesh
		if inMesh || !d.cfg.MeshOnly {
			list = append(list, resolver.Server(s))
		}
	}
	if d.cfg.MeshOnly && len(list) == 0 {
		return nil, errNotOfMesh
	}
	if wait {
		err = d.plane.awaitUp(ctx) // here, so that it does not use up the time of the first server
	}
	return list, err
}

// preferred sorts the addresses of a name by rules 1 and 6 of RFC 6724, section 6: first those of a
// family in which this node or its host has an address, and among these global IPv6 before IPv4
// before unique local IPv6. The sort is stable.
func (d *dialer) preferred(addrs []netip.Addr) []netip.Addr {
	isIPv4 := func(a netip.Addr) bool { return a.Unmap().Is4() }
	if slices.ContainsFunc(addrs, isIPv4) == !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !isIPv4(a) }) {
		return addrs // all of one family
	}
	ranks := make(map[netip.Addr]int, len(addrs))
	for _, a := range addrs {
		ranks[a] = precedence(a)
		if !d.hasFamily(a.Unmap()) {
			ranks[a] += unreachable
		}
	}
	sorted := slices.Clone(addrs)
	slices.SortStableFunc(sorted, func(a, b netip.Addr) int { return cmp.Compare(ranks[a], ranks[b]) })
	return sorted
}

// unreachable is added to the rank of an address without a route. It exceeds every precedence.
const unreachable = 10

// precedence ranks addresses by the policy table of RFC 6724, section 2.1; the lowest comes first.
func precedence(a netip.Addr) int {
	switch {
	case a.Unmap().Is4():
		return 1
	case a.IsPrivate(), a.IsLoopback(): // unique local addresses; and ::1, because few services listen only there
		return 2
	}
	return 0
}

// hasFamily reports whether this node, or the host if a is outside the mesh, has a source address
// for a.
func (d *dialer) hasFamily(a netip.Addr) bool {
	if d.plane.routes.Load().inMesh(a) {
		return slices.ContainsFunc(d.plane.stack.Addrs(), func(own netip.Addr) bool { return own.Is4() == a.Is4() })
	}
	if d.cfg.DialHost != nil {
		return true // the caller's DialHost may reach either family
	}
	// Connecting a UDP socket looks up the route and sends nothing.
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, dnsPort)))
	if err != nil {
		return false
	}
	c.Close()
	return true
}
