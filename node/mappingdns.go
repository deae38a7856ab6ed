package node

import (
	"net/netip"
	"slices"

	"ginnel/control"
)

// Who resolves names, as the map of a coordination server has it.

// dns is who resolves names. With an exit node, names outside the mesh are asked by way of it: of
// the map's servers for all names, and then of the exit node itself. Without the former, the
// servers that the map has for want of others come last.
func (t *mapper) dns(c *control.DNSConfig, exit *control.Node) DNS {
	d := dnsConfig(c)
	if t.cfg.ExitNode == "" {
		return d
	}
	own := len(d.Servers) > 0
	if s, ok := exitNameserver(exit); ok {
		d.Servers = append(d.Servers, s)
	}
	if c != nil && !own {
		d.Servers = append(d.Servers, d.nameservers(c.FallbackResolvers)...)
	}
	return d
}

// dnsConfig takes the resolvers that this node can ask; DNS over TLS is left out.
func dnsConfig(c *control.DNSConfig) DNS {
	if c == nil {
		return DNS{}
	}
	d := DNS{Search: c.Domains, Records: make(map[string][]netip.Addr)}
	for _, name := range c.ExitNodeFilteredSet {
		d.Withheld = append(d.Withheld, hostName(name))
	}
	d.Servers = d.nameservers(c.Resolvers)
	for suffix, r := range c.Routes {
		if d.Routes == nil {
			d.Routes = make(map[string][]Nameserver)
		}
		d.Routes[hostName(suffix)] = d.nameservers(r)
	}
	for _, r := range c.ExtraRecords {
		a, err := netip.ParseAddr(r.Value)
		if err != nil || r.Type != "" && r.Type != "A" && r.Type != "AAAA" {
			continue
		}
		name := hostName(r.Name)
		d.Records[name] = append(d.Records[name], a.Unmap())
	}
	return d
}

// nameservers translates resolvers and keeps where their hosts are. Plain HTTP is for servers in
// the mesh.
func (d *DNS) nameservers(list []control.Resolver) (servers []Nameserver) {
	for _, r := range list {
		if a, err := netip.ParseAddr(r.Addr); err == nil {
			servers = append(servers, Nameservers(a.Unmap())...)
		} else if ap, err := netip.ParseAddrPort(r.Addr); err == nil {
			servers = append(servers, Nameserver{Addr: ap})
		} else if s := (Nameserver{URL: r.Addr}); s.isHTTP() {
			servers = append(servers, s)
			if host := s.hostname(); len(r.BootstrapResolution) > 0 {
				if d.Bootstrap == nil {
					d.Bootstrap = make(map[string][]netip.Addr)
				}
				d.Bootstrap[host] = r.BootstrapResolution
			}
		}
	}
	return servers
}

// Services that nodes tell of in their host information (control specification, section 5.8).
const (
	servicePeerAPI4 = "peerapi4"
	servicePeerAPI6 = "peerapi6"
	serviceDNSProxy = "peerapi-dns-proxy"
)

// exitNameserver is the DNS server of an exit node, if that has one.
func exitNameserver(exit *control.Node) (s Nameserver, ok bool) {
	if exit == nil || exit.Hostinfo == nil {
		return s, false
	}
	services := exit.Hostinfo.Services
	if !slices.ContainsFunc(services, func(s control.Service) bool { return s.Proto == serviceDNSProxy }) {
		return s, false
	}
	for _, service := range services {
		for _, a := range exit.Addresses {
			if service.Port != 0 && (service.Proto == servicePeerAPI4 && a.Addr().Is4() || service.Proto == servicePeerAPI6 && a.Addr().Is6()) {
				at := netip.AddrPortFrom(a.Addr(), service.Port)
				return Nameserver{URL: "http://" + at.String() + pathDNSQuery}, true
			}
		}
	}
	return s, false
}
