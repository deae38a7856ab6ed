package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
)

// lookup resolves a host name: names of the mesh by the map, others by the map's DNS servers or the
// host's resolver. Addresses come in the order in which to try them.
func (n *Node) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	name := hostName(host)
	if addrs, known, err := n.routes.Load().lookup(name); known {
		return addrs, err
	}
	m := n.netmap.Load()
	if inDomain(name, "localhost") {
		return []netip.Addr{loopback4, netip.IPv6Loopback()}, nil // without asking anybody (RFC 6761, section 6.3)
	}
	var firstErr error
	for _, candidate := range searchList(host, m.DNS.Search) {
		addrs, err := n.lookupCandidate(ctx, m, candidate, host)
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

// loopback4 is what localhost stands for in IPv4.
var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// errNotOfMesh refuses a name about which nobody in the mesh can be asked.
const errNotOfMesh = policyError("no server in the mesh knows such names, and --mesh-only is set")

// lookupCandidate resolves one name of the search list of host.
func (n *Node) lookupCandidate(ctx context.Context, m *NetworkMap, candidate, host string) ([]netip.Addr, error) {
	name := hostName(candidate)
	if addrs, known, err := n.routes.Load().lookup(name); known {
		return addrs, err
	}
	if servers, routed := m.DNS.route(name, m.Domain); routed {
		if len(servers) == 0 {
			return nil, &net.DNSError{Err: "no such name in the mesh", Name: name, IsNotFound: true}
		}
		return n.askServers(ctx, candidate, servers)
	}
	if m.Mesh && n.cfg.MeshOnly && len(m.DNS.Servers) == 0 && !strings.Contains(name, ".") {
		return nil, &net.DNSError{Err: "no such name in the mesh", Name: name, IsNotFound: true} // and the host's are not wanted
	}
	if n.cfg.MeshOnly || len(m.DNS.Servers) > 0 {
		return n.askServers(ctx, candidate, m.DNS.Servers)
	}
	if name != hostName(host) {
		return nil, &net.DNSError{Err: "no such name", Name: name, IsNotFound: true} // the host's resolver searches by itself
	}
	if err := n.mayLeave(netip.Addr{}); err != nil {
		return nil, err // nor may the question
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// lookup finds a name that the map knows.
func (r *routes) lookup(name string) (addrs []netip.Addr, known bool, err error) {
	entry, known := r.names[name]
	if entry.ambiguous {
		err = &unreachableError{who: name, why: "several nodes have this name; use an address", errno: syscall.EHOSTUNREACH}
	}
	return entry.addrs, known, err
}

// route finds the servers of the longest domain that name is in. Those of the mesh's own domain are
// none: nobody else must be asked.
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

// inDomain reports whether name is domain or below it; the empty domain is above all.
func inDomain(name, domain string) bool {
	return domain == "" || name == domain || strings.HasSuffix(name, "."+domain)
}

// searchList is the order in which resolv.conf(5) tries names: one with a dot first as it is, one
// without first in the search domains. A dot at the end means that the name is whole.
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
