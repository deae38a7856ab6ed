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

// NetworkMap is all that a node knows of its network. It comes from a coordination server, a file
// or the program that embeds the node. A map must not be changed once a node has it.
type NetworkMap struct {
	Name      string         // our own, for display
	Domain    string         // of the names of the mesh, which resolve with and without it; empty: none
	Addresses []netip.Prefix // our own; all other addresses in these prefixes belong to the mesh, too
	Peers     []Peer
	Relays    relay.Map
	Home      int // region of our home relay; 0: none
	DNS       DNS

	// Filter decides which connections and datagrams of peers are let in; nil allows all.
	Filter userstack.Filter
	// Mesh is true for the map of a coordination server, whose Filter also decides who may ping.
	Mesh bool
	// ExitLost says why the exit node is not there, so that nothing outside the mesh is reached. It
	// is empty if the exit node is there, or none was requested.
	ExitLost string
}

// Peer is another node. A plain peer speaks WireGuard only, and is reached at its Endpoint or at
// the address from which it was last heard. All others are reached through relays and by discovery.
type Peer struct {
	Name      string // for display and as a host name; may be empty
	Key       key.NodePublic
	Addresses []netip.Prefix // from which it may send, and to which packets are sent to it

	Disco     key.DiscoPublic  // zero: it takes no part in discovery
	Endpoints []netip.AddrPort // candidates for a direct path
	Region    int              // of its home relay; 0: unknown

	Plain        bool          // it speaks WireGuard only
	Endpoint     Endpoint      // of a plain peer; zero: the peer has to send first
	PresharedKey key.Preshared // zero: none
	Keepalive    time.Duration // persistent keepalive; 0: off

	Online   *bool     // whether the coordination server has a connection with it; nil: unknown
	LastSeen time.Time // by the server; only of a peer that is not online
}

// Endpoint is a host, an IP address or a name, and a UDP port.
type Endpoint struct {
	Host string
	Port uint16
}

// addrPort returns the address; false if the host is a name, or empty.
func (e Endpoint) addrPort() (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(e.Host)
	return netip.AddrPortFrom(a, e.Port), err == nil
}

// DNS is how a node resolves names.
type DNS struct {
	Servers []Nameserver // for all names; those in the mesh are asked through it; empty: the host's resolver
	Search  []string     // search domains

	// Routes are the servers of domains. The longest domain that a name is in counts. For a domain
	// without servers, the map has all names.
	Routes  map[string][]Nameserver
	Records map[string][]netip.Addr // further names of the mesh

	// Withheld are names for which this node must not answer queries of peers as an exit node. An
	// entry that begins with a dot stands for all names below it.
	Withheld []string

	// Bootstrap are the addresses of hosts in the URLs of nameservers. Other such hosts are
	// resolved by the host's resolver.
	Bootstrap map[string][]netip.Addr
}

// display returns the name of a peer for messages, or its shortened key.
func (p *Peer) display() string { return cmp.Or(p.Name, p.Key.ShortString()) }

// routes finds the peer for an address, and the addresses for a name. It is immutable.
type routes struct {
	hosts map[netip.Addr]*Peer // prefixes of a single address
	nets  []netRoute           // other prefixes, longest first
	own   []netip.Prefix
	names map[string]meshName // lower case
	keys  map[key.NodePublic]bool
}

// meshName is a host name of the mesh. A name that several nodes have is ambiguous, and resolves to
// none of them.
type meshName struct {
	addrs     []netip.Addr
	ambiguous bool
}

type netRoute struct {
	prefix netip.Prefix
	peer   *Peer
}

func newRoutes(m *NetworkMap) *routes {
	r := &routes{hosts: make(map[netip.Addr]*Peer), own: m.Addresses, names: make(map[string]meshName),
		keys: make(map[key.NodePublic]bool, len(m.Peers))}
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

// addName adds the name of a node, without and with the domain.
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

// hostName returns the form in which names are compared: lower case, without a dot at the end.
func hostName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

// peer returns the peer to which packets to a are sent; nil if there is none.
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

// inMesh reports whether a belongs to the mesh. Such an address is never dialled on the host's
// network, even if no peer has it.
func (r *routes) inMesh(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return false // these mean this machine, even if a peer has a default route
	}
	return meshaddr.Contains(a) || r.peer(a) != nil ||
		slices.ContainsFunc(r.own, func(p netip.Prefix) bool { return p.Contains(a) })
}

// meshPrefixes returns the prefixes that are reached through the mesh, sorted.
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
