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

// This file turns a coordination server's map into the node's own, and is the only one to do so.

// mapper does that for one node, and keeps the packet filter of the map. Answers to what this node
// has sent are known to the stack, which does not ask about them, but for what was sent from a port
// that others may send to.
type mapper struct {
	cfg    *Control
	filter filter.Filter
	log    *slog.Logger

	exitLost string // as the last map had it
}

// networkMap translates m as it stands at a time of the server's clock.
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
			out.Peers = append(out.Peers, t.peer(p, domain, p == exit, taken))
		}
	}
	t.setFilter(m)
	return out
}

// usable reports whether a peer can be spoken with: its key holds, and there is a way to it
// (control specification, section 8).
func usable(p *control.Node, now time.Time) bool {
	expired := p.Expired || !p.KeyExpiry.IsZero() && !now.Before(p.KeyExpiry)
	return !expired && p.Key.Check() == nil && (p.IsWireGuardOnly || !p.DiscoKey.IsZero() || p.HomeDERP != 0)
}

// nodeAddresses returns the addresses of all nodes, this one included.
func nodeAddresses(m *control.NetMap) map[netip.Prefix]bool {
	all := make(map[netip.Prefix]bool, 2*len(m.Peers)+2)
	for _, n := range append([]*control.Node{m.Self}, m.Peers...) {
		for _, a := range n.Addresses {
			all[a] = true
		}
	}
	return all
}

func (t *mapper) peer(p *control.Node, domain string, isExit bool, taken func() map[netip.Prefix]bool) Peer {
	out := Peer{
		Name:      shortName(p.Name, domain),
		Key:       p.Key,
		Addresses: t.allowed(p, isExit, taken),
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

// allowed are the prefixes that go to a peer and may come from it: its addresses, and what it is
// the router for. Whatever the server says, no route takes an address that another node has.
func (t *mapper) allowed(p *control.Node, isExit bool, taken func() map[netip.Prefix]bool) (prefixes []netip.Prefix) {
	for _, a := range p.AllowedIPs {
		if a.IsValid() && (slices.Contains(p.Addresses, a) || t.routes(a, isExit) && !takesNodes(a, taken)) {
			prefixes = append(prefixes, a)
		}
	}
	return prefixes
}

// routes reports whether this node wants a route. Services have addresses of their own in the mesh,
// which several nodes may be the way to.
func (t *mapper) routes(route netip.Prefix, isExit bool) bool {
	if route.Bits() == 0 {
		return isExit
	}
	return t.cfg.AcceptRoutes || route.IsSingleIP() && meshaddr.Contains(route.Addr())
}

// takesNodes reports whether a route would take one of the addresses that nodes have.
func takesNodes(route netip.Prefix, taken func() map[netip.Prefix]bool) bool {
	switch {
	case route.Bits() == 0:
		return false // takes only what nothing else does
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

// exitNode finds the peer that everything else leaves by; nil if none was asked for or it is not
// there.
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
	if lost != t.exitLost { // there are many maps
		t.log.Warn("the exit node is not there: nothing outside the mesh is reached", "exit_node", t.cfg.ExitNode, "why", why)
	}
	t.exitLost = lost
	return nil
}

func offersExit(p *control.Node) bool {
	is4 := slices.ContainsFunc(p.AllowedIPs, func(a netip.Prefix) bool { return a.Bits() == 0 && a.Addr().Is4() })
	is6 := slices.ContainsFunc(p.AllowedIPs, func(a netip.Prefix) bool { return a.Bits() == 0 && a.Addr().Is6() })
	return is4 && is6
}

// setFilter enforces the map's packet filter. One that makes no sense lets nothing in.
func (t *mapper) setFilter(m *control.NetMap) {
	local := append(slices.Clone(m.Self.Addresses), t.cfg.AdvertiseRoutes...)
	cfg := filter.Config{Rules: m.Filter, Local: local, HasCapability: capabilities(m.Peers)}
	for _, p := range m.Peers {
		if p.IsJailed {
			cfg.Jailed = append(cfg.Jailed, p.AllowedIPs...)
		}
	}
	if err := t.filter.Set(cfg); err != nil {
		t.log.Error("the packet filter of the map is refused; nothing comes in", "err", err)
		cfg.Rules = nil
		t.filter.Set(cfg) // no rules cannot be wrong
	}
}

func (t *mapper) accepts(f userstack.Flow) bool { return t.filter.In(f.Packet) }

// capabilities answers for the attributes of peers by their addresses.
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

// magicSuffix is the domain of the mesh's names: what follows our own (section 7.3).
func magicSuffix(self *control.Node) string {
	_, domain, _ := strings.Cut(hostName(self.Name), ".")
	return domain
}

// shortName is a name without the mesh's domain.
func shortName(name, domain string) string {
	name = hostName(name)
	if short, ok := strings.CutSuffix(name, "."+domain); ok && domain != "" {
		return short
	}
	return name
}

// relayMap leaves out what is no use: a region without relays, or with some that make no sense.
func relayMap(m *control.DERPMap) relay.Map {
	out := relay.Map{Regions: make(map[int]*relay.Region, len(m.Regions))}
	if m.HomeParams != nil {
		out.HomeParams = &relay.HomeParams{RegionScore: m.HomeParams.RegionScore}
	}
	for _, id := range slices.Sorted(maps.Keys(m.Regions)) {
		r := m.Regions[id]
		region := &relay.Region{RegionID: r.RegionID, RegionCode: r.RegionCode, RegionName: r.RegionName, Latitude: r.Latitude,
			Longitude: r.Longitude, Avoid: r.Avoid, NoMeasureNoHome: r.NoMeasureNoHome}
		for _, n := range r.Nodes {
			if n != nil {
				region.Nodes = append(region.Nodes, &relay.Node{Name: n.Name, RegionID: n.RegionID, HostName: n.HostName, CertName: n.CertName,
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
