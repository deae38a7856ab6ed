package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
)

// lookup resolves a host name: a name of the mesh by the map, any other by the map's DNS servers or
// the host's resolver.
func (d *dialer) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	name := hostName(host)
	if addrs, known, err := d.plane.routes.Load().lookup(name); known {
		return addrs, err
	}
	m := d.plane.netmap.Load()
	if inDomain(name, "localhost") {
		return []netip.Addr{loopback4, netip.IPv6Loopback()}, nil // no server may be asked (RFC 6761, section 6.3)
	}
	var firstErr error
	for _, candidate := range searchList(host, m.DNS.Search) {
		addrs, err := d.lookupCandidate(ctx, m, candidate, host)
		if err == nil {
			return addrs, nil
		}
		if firstErr == nil || ctx.Err() != nil {
			firstErr = err
		}
		if dns, ok := errors.AsType[*net.DNSError](err); !(ok && dns.IsNotFound) && !errors.Is(err, errNotOfMesh) {
			return nil, err
		}
	}
	return nil, firstErr
}

// loopback4 is the IPv4 address of localhost.
var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// errNotOfMesh refuses a name that no server in the mesh can resolve.
const errNotOfMesh = policyError("no server in the mesh knows such names, and --mesh-only is set")

// lookupCandidate resolves one name of the search list for host.
func (d *dialer) lookupCandidate(ctx context.Context, m *NetworkMap, candidate, host string) ([]netip.Addr, error) {
	name := hostName(candidate)
	if addrs, known, err := d.plane.routes.Load().lookup(name); known {
		return addrs, err
	}
	if servers, routed := m.DNS.route(name, m.Domain); routed {
		if len(servers) == 0 {
			return nil, &net.DNSError{Err: "no such name in the mesh", Name: name, IsNotFound: true}
		}
		return d.askServers(ctx, candidate, servers)
	}
	if m.Mesh && d.cfg.MeshOnly && len(m.DNS.Servers) == 0 && !strings.Contains(name, ".") {
		return nil, &net.DNSError{Err: "no such name in the mesh", Name: name, IsNotFound: true}
	}
	if d.cfg.MeshOnly || len(m.DNS.Servers) > 0 {
		return d.askServers(ctx, candidate, m.DNS.Servers)
	}
	if name != hostName(host) {
		// The host's resolver has a search list of its own.
		return nil, &net.DNSError{Err: "no such name", Name: name, IsNotFound: true}
	}
	if err := d.mayLeave(netip.Addr{}); err != nil {
		return nil, err // a query must not leave where a connection must not
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// lookup resolves a name by the map. known reports whether the map has the name.
func (r *routes) lookup(name string) (addrs []netip.Addr, known bool, err error) {
	entry, known := r.names[name]
	if entry.ambiguous {
		err = &unreachableError{who: name, why: "several nodes have this name; use an address", errno: syscall.EHOSTUNREACH}
	}
	return entry.addrs, known, err
}

// route returns the servers of the longest domain with a route that name is in; routed reports
// whether there is such a domain. The mesh's own domain, by default, has no servers, because only
// the map knows its names.
func (d *DNS) route(name, domain string) (servers []Nameserver, routed bool) {
	longest := -1
	for suffix, s := range d.Routes {
		if len(suffix) > longest && inDomain(name, suffix) {
			servers, routed, longest = s, true, len(suffix)
		}
	}
	if domain != "" && len(domain) > longest && inDomain(name, domain) {
		return nil, true
	}
	return servers, routed
}

// inDomain reports whether name is domain or below it. Every name is below the empty domain.
func inDomain(name, domain string) bool {
	return domain == "" || name == domain || strings.HasSuffix(name, "."+domain)
}

// searchList returns the names to try for host, in the order of resolv.conf(5) with ndots:1: a name
// with a dot is tried as it is before the search domains, one without a dot after them. A name that
// ends in a dot is absolute, and is not searched for.
func searchList(host string, search []string) []string {
	if strings.HasSuffix(host, ".") {
		return []string{host}
	}
	absolute := host + "."
	var list []string
	for _, domain := range search {
		list = append(list, host+"."+strings.TrimSuffix(domain, ".")+".")
	}
	if strings.Contains(host, ".") {
		return append([]string{absolute}, list...)
	}
	return append(list, absolute)
}
