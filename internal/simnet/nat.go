package simnet

import (
	"net/netip"
	"slices"
	"time"
)

// NATKind is how a NAT treats UDP, in the terms of RFC 4787.
type NATKind int

const (
	// None is a router without translation and without a filter.
	None NATKind = iota
	// Easy maps a socket inside to one public port for all destinations (endpoint-independent
	// mapping). It lets in datagrams only from destinations that the socket has sent to
	// (address-and-port-dependent filtering). Hole punching works.
	Easy
	// Hard uses another public port for every destination (address-and-port-dependent mapping), so the
	// port that one destination sees is of no use to another.
	Hard
	// Blocked drops UDP in both directions. Hosts inside reach each other.
	Blocked
)

// String returns the kind's name in lower case.
func (k NATKind) String() string { return [...]string{"none", "easy", "hard", "blocked"}[k] }

// NATConfig describes a NAT.
type NATConfig struct {
	Kind NATKind
	// Addrs are the public addresses, at most one of each family. An easy or hard NAT translates the
	// families in which it has an address, and routes the others without translation: a usual home
	// network translates only IPv4.
	Addrs []netip.Addr
	// Behind is the NAT behind which this one is; nil means the internet.
	Behind *NAT
	// Hairpin lets hosts inside reach each other by their public addresses and ports.
	Hairpin bool
	// Timeout ends a mapping, and a permission of the filter, after the last datagram from inside; 0
	// means never.
	Timeout time.Duration
}

// NAT connects a private network to an outer one. Net.NewNAT makes one.
type NAT struct {
	net    *Net
	config NATConfig
	outer  *segment
	inner  *segment

	// Guarded by net.mu.
	link     Link
	inside   map[natKey]*mapping
	public   map[netip.AddrPort]*mapping
	nextPort uint16
}

// natKey is the key of a mapping for packets from inside.
type natKey struct {
	inner  netip.AddrPort
	remote netip.AddrPort // zero except for a hard NAT
}

// mapping maps a socket inside to a public port.
type mapping struct {
	key    natKey
	public netip.AddrPort
	used   time.Time                    // of the last datagram from inside
	peers  map[netip.AddrPort]time.Time // of the last datagram to each destination
}

// NewNAT attaches a NAT. It panics if the configuration is invalid or an address is in use.
func (n *Net) NewNAT(cfg NATConfig) *NAT {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := &NAT{
		net:      n,
		config:   cfg,
		outer:    n.insideLocked(cfg.Behind),
		inside:   make(map[natKey]*mapping),
		public:   make(map[netip.AddrPort]*mapping),
		nextPort: 20000, // never the inner port, so that a test notices if the two are mixed up
	}
	t.config.Addrs = slices.Clone(cfg.Addrs)
	t.inner = &segment{devices: make(map[netip.Addr]device), gateway: t}
	if len(cfg.Addrs) == 0 && (cfg.Kind == Easy || cfg.Kind == Hard) {
		panic("simnet: easy and hard NATs need a public address")
	}
	for _, addr := range cfg.Addrs {
		t.outer.attachLocked(addr, t)
	}
	return t
}

// insideLocked returns the network behind t, or the internet if t is nil.
func (n *Net) insideLocked(t *NAT) *segment {
	if t == nil {
		return n.internet
	}
	return t.inner
}

// SetLink sets the link between the NAT and the outer network.
func (t *NAT) SetLink(l Link) {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	t.link = l
}

// Rebind removes all mappings, as a restart does. Sockets inside get new public ports when they
// send again.
func (t *NAT) Rebind() {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	clear(t.inside)
	clear(t.public)
}

func (t *NAT) linkLocked(netip.Addr) Link { return t.link }

// translates reports whether inner cannot be reached from outside by its own address.
func (t *NAT) translates(inner netip.Addr) bool {
	_, ok := t.publicAddr(inner)
	return ok && t.config.Kind != None || t.config.Kind == Blocked
}

// publicAddr returns the NAT's own address of the same family.
func (t *NAT) publicAddr(addr netip.Addr) (netip.Addr, bool) {
	i := slices.IndexFunc(t.config.Addrs, func(a netip.Addr) bool { return a.Is4() == addr.Is4() })
	if i < 0 {
		return netip.Addr{}, false
	}
	return t.config.Addrs[i], true
}

// sendLocked handles a packet from inside.
func (t *NAT) sendLocked(now time.Time, p *packet) {
	toSelf := slices.Contains(t.config.Addrs, p.dst.Addr())
	if t.config.Kind == Blocked || toSelf && !t.config.Hairpin {
		t.net.stats.Filtered++
		return
	}
	if t.translates(p.src.Addr()) {
		m := t.mappingLocked(now, p)
		m.used, m.peers[p.dst] = now, now
		p.src = m.public
	}
	if toSelf {
		t.receiveLocked(now, p)
		return
	}
	t.net.crossLocked(now, t.link, p, func(now time.Time) { t.net.forwardLocked(now, t.outer, p) })
}

// receiveLocked handles a packet from outside.
func (t *NAT) receiveLocked(now time.Time, p *packet) {
	if t.config.Kind == Blocked {
		t.net.stats.Filtered++
		return
	}
	if slices.Contains(t.config.Addrs, p.dst.Addr()) {
		m, ok := t.public[p.dst]
		if !ok || !t.admits(now, m, p.src) {
			t.net.stats.Filtered++
			return
		}
		p.dst = m.key.inner
	}
	if !t.net.deliverLocked(now, t.inner, p) {
		t.net.stats.NoRoute++
	}
}

// admits reports whether the filter of m lets in datagrams from peer.
func (t *NAT) admits(now time.Time, m *mapping, peer netip.AddrPort) bool {
	sent, ok := m.peers[peer]
	return ok && !t.expired(now, sent)
}

func (t *NAT) expired(now, used time.Time) bool {
	return t.config.Timeout > 0 && now.Sub(used) >= t.config.Timeout
}

// mappingLocked finds or makes the mapping for a packet from the inside.
func (t *NAT) mappingLocked(now time.Time, p *packet) *mapping {
	key := natKey{inner: p.src}
	if t.config.Kind == Hard {
		key.remote = p.dst
	}
	m, ok := t.inside[key]
	if ok && !t.expired(now, m.used) {
		return m
	}
	if ok {
		delete(t.public, m.public)
	}
	addr, _ := t.publicAddr(p.src.Addr())
	m = &mapping{key: key, public: t.freePortLocked(addr, p.src.Port()), peers: make(map[netip.AddrPort]time.Time)}
	t.inside[key], t.public[m.public] = m, m
	return m
}

// freePortLocked returns the next free public port.
func (t *NAT) freePortLocked(addr netip.Addr, inner uint16) netip.AddrPort {
	for range 1 << 16 {
		public := netip.AddrPortFrom(addr, t.nextPort)
		if t.nextPort++; t.nextPort == 0 {
			t.nextPort = 1024
		}
		if _, taken := t.public[public]; !taken && public.Port() != inner {
			return public
		}
	}
	panic("simnet: no free public port")
}
