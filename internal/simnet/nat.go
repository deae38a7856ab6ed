package simnet

import (
	"net/netip"
	"slices"
	"time"
)

// NATKind is how a NAT treats UDP. The terms are those of RFC 4787.
type NATKind int

const (
	// None is a router: addresses pass as they are, and whoever is outside may begin.
	None NATKind = iota
	// Easy keeps one public port for a socket inside, whomever it sends to (endpoint-independent
	// mapping), and lets in only those it has sent to (address-and-port-dependent filtering): holes
	// can be punched.
	Easy
	// Hard takes another public port for every destination (address-and-port-dependent mapping), so
	// that what one peer learns of a port is of no use to another.
	Hard
	// Blocked lets no UDP pass in either direction. Hosts inside reach each other.
	Blocked
)

// String returns the kind's name in lower case.
func (k NATKind) String() string { return [...]string{"none", "easy", "hard", "blocked"}[k] }

// NATConfig describes a NAT.
type NATConfig struct {
	Kind NATKind
	// Addrs are its public addresses, at most one of a family. An easy or hard NAT translates the
	// families it has an address of and routes the others as they are: a usual home has a NAT for
	// IPv4, and IPv6 without.
	Addrs []netip.Addr
	// Behind is the NAT around this one; nil means the internet.
	Behind *NAT
	// Hairpin lets hosts inside reach each other by their public ports.
	Hairpin bool
	// Timeout ends what a datagram from inside has opened when none has followed for so long; 0 means
	// never.
	Timeout time.Duration
}

// NAT stands between hosts and the internet. Net.NewNAT makes one.
type NAT struct {
	net    *Net
	config NATConfig
	outer  *segment
	inner  *segment

	// guarded by net.mu
	link     Link
	inside   map[natKey]*mapping
	public   map[netip.AddrPort]*mapping
	nextPort uint16
}

// natKey finds the mapping of what comes from inside.
type natKey struct {
	inner  netip.AddrPort
	remote netip.AddrPort // of a hard NAT only
}

// mapping is a public port that stands for a socket inside.
type mapping struct {
	key    natKey
	public netip.AddrPort
	used   time.Time                    // the last datagram from inside
	peers  map[netip.AddrPort]time.Time // the last datagram to each
}

// NewNAT attaches a NAT. A mistake in its configuration, or an address that is in use already, is a
// panic.
func (n *Net) NewNAT(cfg NATConfig) *NAT {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := &NAT{
		net:      n,
		config:   cfg,
		outer:    n.insideLocked(cfg.Behind),
		inside:   make(map[natKey]*mapping),
		public:   make(map[netip.AddrPort]*mapping),
		nextPort: 20000, // never the port inside: who mixes them up shall notice
	}
	t.config.Addrs = slices.Clone(cfg.Addrs)
	t.inner = &segment{devices: make(map[netip.Addr]device), gateway: t}
	if len(cfg.Addrs) == 0 && (cfg.Kind == Easy || cfg.Kind == Hard) {
		panic("simnet: a NAT that translates needs an address")
	}
	for _, addr := range cfg.Addrs {
		t.outer.attachLocked(addr, t)
	}
	return t
}

// insideLocked returns the network behind a NAT, or the internet for nil.
func (n *Net) insideLocked(t *NAT) *segment {
	if t == nil {
		return n.internet
	}
	return t.inner
}

// SetLink changes the link between the NAT and the network outside.
func (t *NAT) SetLink(l Link) {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	t.link = l
}

// Rebind forgets every mapping, as a NAT does that restarts. The next datagram from each socket
// inside gets a public port that was not in use before.
func (t *NAT) Rebind() {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	clear(t.inside)
	clear(t.public)
}

func (t *NAT) linkLocked(netip.Addr) Link { return t.link }

// translates reports whether an inner address is hidden from the outside.
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

// sendLocked takes a packet from the inside.
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

// receiveLocked takes a packet from the outside.
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

// admits reports whether the socket inside has sent to that peer, and not too long ago.
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

// freePortLocked takes one port after the other.
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
	panic("simnet: a NAT has no public port left")
}
