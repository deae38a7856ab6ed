package node

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ginnel/internal/meshaddr"
	"ginnel/key"
	"ginnel/relay"
	"ginnel/userstack"
)

// NetworkMap is all that a node knows of its network. Where it comes from (a coordination server, a
// file, a program) is not the node's business. A map handed to a node must not be changed
// afterwards.
type NetworkMap struct {
	Name      string         // our own, for display
	Domain    string         // of the names of the mesh, which are known with and without it; empty: none
	Addresses []netip.Prefix // our own; whatever else lies in them belongs to the mesh too
	Peers     []Peer
	Relays    relay.Map
	Home      int // region of our home relay; 0: none
	DNS       DNS

	// Filter decides what peers may begin with the ports we serve; nil allows every peer.
	Filter userstack.Filter
	// Mesh is for the map of a coordination server: its Filter also decides who may ping.
	Mesh bool
	// ExitLost tells why the peer through which everything else should leave is not there, so that
	// nothing does; empty: it is there, or none is wanted.
	ExitLost string
}

// Peer is another node. One with an Endpoint speaks plain WireGuard and is reached there, or
// wherever it was last heard from. All others are reached through relays and by discovery.
type Peer struct {
	Name      string // for display and as a host name; may be empty
	Key       key.NodePublic
	Addresses []netip.Prefix // what it may send from, and what is sent to it

	Disco     key.DiscoPublic  // zero: no discovery
	Endpoints []netip.AddrPort // where it may be reached directly
	Region    int              // of its home relay; 0: unknown

	Plain        bool          // plain WireGuard
	Endpoint     Endpoint      // of a plain peer; zero: it has to speak first
	PresharedKey key.Preshared // zero: none
	Keepalive    time.Duration // persistent keepalive; 0: off

	Online   *bool     // as the coordination server sees it; nil: not known
	LastSeen time.Time // by the server, while it is not online
}

// Endpoint is a host, an IP address or a name, and a UDP port.
type Endpoint struct {
	Host string
	Port uint16
}

// addrPort returns the address; false if it is a name, or not known.
func (e Endpoint) addrPort() (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(e.Host)
	return netip.AddrPortFrom(a, e.Port), err == nil
}

// DNS says who resolves names.
type DNS struct {
	Servers []Nameserver // asked through the mesh if they are in it; empty: the host's resolver
	Search  []string     // domains for names without a dot

	// Routes are domains that have servers of their own; of several the longest counts. Without
	// servers, the map itself knows all names of the domain.
	Routes  map[string][]Nameserver
	Records map[string][]netip.Addr // names beside those of nodes

	// Withheld are names that this node must not answer for as an exit node; see [DNS.withholds].
	Withheld []string

	// Bootstrap are addresses of hosts in the URLs of nameservers. A host that is not in it is asked of
	// the host's resolver.
	Bootstrap map[string][]netip.Addr
}

// display names a peer for people.
func (p *Peer) display() string { return cmp.Or(p.Name, p.Key.ShortString()) }

// routes finds the peer for an address. It is immutable.
type routes struct {
	hosts map[netip.Addr]*Peer // prefixes of one address
	nets  []netRoute           // others, longest first
	own   []netip.Prefix
	names map[string]meshName // lower case
	keys  map[key.NodePublic]bool
}

// meshName is a host name of the mesh. A name that several nodes have leads to none of them: nobody
// could tell which was meant.
type meshName struct {
	addrs     []netip.Addr
	ambiguous bool
}

type netRoute struct {
	prefix netip.Prefix
	peer   *Peer
}

func newRoutes(m *NetworkMap) *routes {
	r := &routes{hosts: make(map[netip.Addr]*Peer), own: m.Addresses, names: make(map[string]meshName), keys: make(map[key.NodePublic]bool, len(m.Peers))}
	for i := range m.Peers {
		p := &m.Peers[i]
		r.keys[p.Key] = true
		for _, prefix := range p.Addresses {
			if prefix.IsSingleIP() {
				r.hosts[prefix.Addr()] = p
			} else {
				r.nets = append(r.nets, netRoute{prefix.Masked(), p})
			}
		}
		r.addName(p.Name, m.Domain, p.Addresses)
	}
	r.addName(m.Name, m.Domain, m.Addresses)
	for name, addrs := range m.DNS.Records {
		if _, taken := r.names[name]; !taken {
			r.names[name] = meshName{addrs: addrs}
		}
	}
	slices.SortStableFunc(r.nets, func(a, b netRoute) int { return b.prefix.Bits() - a.prefix.Bits() })
	return r
}

// addName makes a node known by its name, and by its name in the domain.
func (r *routes) addName(name, domain string, prefixes []netip.Prefix) {
	if name == "" {
		return
	}
	name = hostName(name)
	_, taken := r.names[name]
	entry := meshName{ambiguous: taken}
	for _, p := range prefixes {
		if p.IsSingleIP() && !taken {
			entry.addrs = append(entry.addrs, p.Addr())
		}
	}
	if !taken && len(entry.addrs) == 0 {
		return
	}
	r.names[name] = entry
	if domain != "" && !strings.Contains(name, ".") {
		r.names[name+"."+domain] = entry
	}
}

// hostName is the form of a name that names are compared in.
func hostName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

// peer returns the peer that packets to a go to, nil if there is none.
func (r *routes) peer(a netip.Addr) *Peer {
	if p := r.hosts[a]; p != nil {
		return p
	}
	for _, n := range r.nets {
		if n.prefix.Contains(a) {
			return n.peer
		}
	}
	return nil
}

// isOwn reports whether a is an address of this node.
func (r *routes) isOwn(a netip.Addr) bool {
	return slices.ContainsFunc(r.own, func(p netip.Prefix) bool { return p.Addr() == a })
}

// inMesh reports whether a belongs to the mesh, so that it must never be dialled on the host's
// network, whether or not a peer has it.
func (r *routes) inMesh(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return false // even where a peer is the way to everywhere: they mean this machine
	}
	return meshaddr.Contains(a) || r.peer(a) != nil ||
		slices.ContainsFunc(r.own, func(p netip.Prefix) bool { return p.Contains(a) })
}

// meshPrefixes are the ranges that go through the mesh.
func meshPrefixes(m *NetworkMap) []netip.Prefix {
	v4, v6 := meshaddr.Ranges()
	prefixes := []netip.Prefix{v4, v6}
	prefixes = append(prefixes, m.Addresses...)
	for _, p := range m.Peers {
		prefixes = append(prefixes, p.Addresses...)
	}
	for i, p := range prefixes {
		prefixes[i] = p.Masked()
	}
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits())
	})
	return slices.Compact(prefixes)
}
