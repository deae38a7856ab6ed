package node

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"ginnel/control"
	"ginnel/internal/filter"
	"ginnel/internal/meshaddr"
	"ginnel/relay"
	"ginnel/userstack"
)

// mapper translates the maps of a coordination server into those of this node, and has the packet
// filter. The stack asks the filter about replies only if they come to a port to which others may
// send; it recognizes all other replies itself.
type mapper struct {
	cfg    *Control
	filter filter.Filter
	log    *slog.Logger

	exitLost string // of the last map
}

// networkMap translates m. Keys expire by the server's clock.
func (t *mapper) networkMap(m *control.NetMap, home int) NetworkMap {
	now := time.Now().Add(m.ClockSkew)
	domain := magicSuffix(m.Self)
	out := NetworkMap{
		Name:      shortName(m.Self.Name, domain),
		Domain:    domain,
		Addresses: m.Self.Addresses,
		Relays:    relayMap(m.DERPMap),
		Home:      home,
		Peers:     make([]Peer, 0, len(m.Peers)),
		Filter:    t.accepts,
		Mesh:      true,
	}
	if out.Relays.Regions[home] == nil {
		out.Home = 0
	}
	exit := t.exitNode(m, domain, now)
	out.DNS = t.dns(m.DNS, exit)
	taken := sync.OnceValue(func() map[netip.Prefix]bool { return nodeAddresses(m) })
	out.ExitLost = t.exitLost
	for _, p := range m.Peers {
		if usable(p, now) {
			out.Peers = append(out.Peers, t.peer(p, domain, t.allowed(p, exit, taken)))
		}
	}
	t.setFilter(m)
	return out
}

// usable reports whether the node can use a peer: its key is valid and has not expired, and it can
// be reached (control specification, section 8).
func usable(p *control.Node, now time.Time) bool {
	expired := p.Expired || !p.KeyExpiry.IsZero() && !now.Before(p.KeyExpiry)
	return !expired && p.Key.Check() == nil && (p.IsWireGuardOnly || !p.DiscoKey.IsZero() || p.HomeDERP != 0)
}

// nodeAddresses returns the addresses of all nodes, including this one.
func nodeAddresses(m *control.NetMap) map[netip.Prefix]bool {
	all := make(map[netip.Prefix]bool, 2*len(m.Peers)+2)
	for _, n := range append([]*control.Node{m.Self}, m.Peers...) {
		for _, a := range n.Addresses {
			all[a] = true
		}
	}
	return all
}

func (t *mapper) peer(p *control.Node, domain string, allowed []netip.Prefix) Peer {
	out := Peer{
		Name:      shortName(p.Name, domain),
		Key:       p.Key,
		Addresses: allowed,
		Disco:     p.DiscoKey,
		Endpoints: p.Endpoints,
		Region:    p.HomeDERP,
		Online:    p.Online,
		LastSeen:  p.LastSeen,
	}
	if p.IsWireGuardOnly && len(p.Endpoints) > 0 {
		out.Plain, out.Endpoint = true, Endpoint{Host: p.Endpoints[0].Addr().String(), Port: p.Endpoints[0].Port()}
	}
	return out
}

// allowed returns the prefixes to which a peer may be sent packets and from which it may send: its
// addresses, and the routes that this node uses. A route that contains the address of a node is
// left out, even though the server has it.
func (t *mapper) allowed(p, exit *control.Node, taken func() map[netip.Prefix]bool) (prefixes []netip.Prefix) {
	for _, a := range p.AllowedIPs {
		used := t.usesRoute(a)
		if a.Bits() == 0 {
			used = p == exit
		}
		if a.IsValid() && (slices.Contains(p.Addresses, a) || used && !takesNodes(a, taken)) {
			prefixes = append(prefixes, a)
		}
	}
	return prefixes
}

// usesRoute reports whether this node uses a route other than a default route. The address of a
// service, which several nodes may serve, is always used.
func (t *mapper) usesRoute(route netip.Prefix) bool {
	return t.cfg.AcceptRoutes || route.IsSingleIP() && meshaddr.Contains(route.Addr())
}

// takesNodes reports whether a route would take packets to the address of a node.
func takesNodes(route netip.Prefix, taken func() map[netip.Prefix]bool) bool {
	switch {
	case route.Bits() == 0:
		return false // every other route is longer
	case route.IsSingleIP():
		return taken()[route]
	case meshaddr.TakenBy(route):
		return true
	}
	for a := range taken() {
		if route.Overlaps(a) {
			return true
		}
	}
	return false
}

// exitNode returns the exit node; nil if none was requested, or it cannot be used.
func (t *mapper) exitNode(m *control.NetMap, domain string, now time.Time) *control.Node {
	want := hostName(t.cfg.ExitNode)
	if want == "" {
		return nil
	}
	why := "no peer has this name or address"
	for _, p := range m.Peers {
		isAddr := slices.ContainsFunc(p.Addresses, func(a netip.Prefix) bool { return a.Addr().String() == want })
		if !isAddr && hostName(p.Name) != want && hostName(shortName(p.Name, domain)) != want {
			continue
		}
		switch {
		case !usable(p, now):
			why = "its key has expired, or there is no way to it"
		case !offersExit(p):
			why = "the peer is no exit node, or the server has not approved it as one"
		default:
			t.exitLost = ""
			return p
		}
	}
	lost := fmt.Sprintf("exit node %q: %s; nothing outside the mesh is reached", t.cfg.ExitNode, why)
	if lost != t.exitLost { // logs a loss once, not for each map
		t.log.Warn("exit node is not there: nothing outside the mesh is reached", "exit_node", t.cfg.ExitNode, "why", why)
	}
	t.exitLost = lost
	return nil
}

func offersExit(p *control.Node) bool {
	is4 := slices.ContainsFunc(p.AllowedIPs, func(a netip.Prefix) bool { return a.Bits() == 0 && a.Addr().Is4() })
	is6 := slices.ContainsFunc(p.AllowedIPs, func(a netip.Prefix) bool { return a.Bits() == 0 && a.Addr().Is6() })
	return is4 && is6
}

// setFilter enforces the map's packet filter. An invalid filter lets nothing in.
func (t *mapper) setFilter(m *control.NetMap) {
	local := append(slices.Clone(m.Self.Addresses), t.cfg.AdvertiseRoutes...)
	cfg := filter.Config{Rules: m.Filter, Local: local, HasCapability: capabilities(m.Peers)}
	for _, p := range m.Peers {
		if p.IsJailed {
			cfg.Jailed = append(cfg.Jailed, p.AllowedIPs...)
		}
	}
	if err := t.filter.Set(cfg); err != nil {
		t.log.Error("packet filter of the map is invalid; nothing is let in", "err", err)
		cfg.Rules = nil
		t.filter.Set(cfg) // does not fail without rules
	}
}

func (t *mapper) accepts(f userstack.Flow) bool { return t.filter.In(f.Packet) }

// capabilities returns a function that reports whether the peer with an address has a capability.
func capabilities(peers []*control.Node) func(netip.Addr, string) bool {
	have := make(map[netip.Addr]control.CapMap)
	for _, p := range peers {
		if len(p.CapMap) > 0 {
			for _, a := range p.Addresses {
				have[a.Addr()] = p.CapMap
			}
		}
	}
	return func(src netip.Addr, capability string) bool {
		_, ok := have[src][capability]
		return ok
	}
}

// magicSuffix returns the domain of the mesh: what follows the host name in our own name (control
// specification, section 7.3).
func magicSuffix(self *control.Node) string {
	_, domain, _ := strings.Cut(hostName(self.Name), ".")
	return domain
}

// shortName returns a name without the mesh's domain.
func shortName(name, domain string) string {
	name = hostName(name)
	if short, ok := strings.CutSuffix(name, "."+domain); ok && domain != "" {
		return short
	}
	return name
}

// relayMap translates the relays. It leaves out invalid regions.
func relayMap(m *control.DERPMap) relay.Map {
	out := relay.Map{Regions: make(map[int]*relay.Region, len(m.Regions))}
	if m.HomeParams != nil {
		out.HomeParams = &relay.HomeParams{RegionScore: m.HomeParams.RegionScore}
	}
	for _, id := range slices.Sorted(maps.Keys(m.Regions)) {
		r := m.Regions[id]
		region := &relay.Region{RegionID: r.RegionID, RegionCode: r.RegionCode, RegionName: r.RegionName,
			Latitude:  r.Latitude,
			Longitude: r.Longitude, Avoid: r.Avoid, NoMeasureNoHome: r.NoMeasureNoHome}
		for _, n := range r.Nodes {
			if n != nil {
				region.Nodes = append(region.Nodes,
					&relay.Node{Name: n.Name, RegionID: n.RegionID, HostName: n.HostName, CertName: n.CertName,
						IPv4: n.IPv4, IPv6: n.IPv6, STUNPort: n.STUNPort, STUNOnly: n.STUNOnly, DERPPort: n.DERPPort,
						InsecureForTests: n.InsecureForTests, STUNTestIP: n.STUNTestIP, CanPort80: n.CanPort80})
			}
		}
		out.Regions[id] = region
		if out.Validate() != nil {
			delete(out.Regions, id)
		}
	}
	return out
}
