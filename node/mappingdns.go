package node

import (
	"net/netip"
	"slices"

	"ginnel/control"
)

// dns translates the DNS settings. With an exit node, names outside the mesh are resolved through
// it: by the map's servers for all names, if there are any, then by the exit node's own server. If
// there are none, the map's fallback servers come last.
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

// dnsConfig translates the resolvers that this node can ask. It cannot ask over TLS (RFC 7858).
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

// nameservers translates resolvers, and adds the addresses of their hosts to d.Bootstrap.
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

// Services in the host information of nodes (control specification, section 5.8).
const (
	servicePeerAPI4 = "peerapi4"
	servicePeerAPI6 = "peerapi6"
	serviceDNSProxy = "peerapi-dns-proxy"
)

// exitNameserver returns the DNS server of an exit node; false if it has none.
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
			if service.Port != 0 && (service.Proto == servicePeerAPI4 && a.Addr().Is4() ||
				service.Proto == servicePeerAPI6 && a.Addr().Is6()) {
				at := netip.AddrPortFrom(a.Addr(), service.Port)
				return Nameserver{URL: "http://" + at.String() + pathDNSQuery}, true
			}
		}
	}
	return s, false
}
