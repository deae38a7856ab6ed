package configs

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"ginnel/key"
)

// wgParser builds a WireGuard from the lines of one file.
type wgParser struct {
	file      string
	config    WireGuard
	header    Position // of [Interface], or the start of the file
	keyAt     Position // of the private key, valid or not
	addressAt Position // of the last address, valid or not
	mtuAt     Position
	sections  []*wgPeerSection // in the order of the file
	seen      map[string]int   // lines of the keys of [Interface]
	skipped   int              // number of unknown sections
	problems  Problems
	warnings  Problems
	amnezia   bool // a key of AmneziaWG was reported
}

// wgPeerSection is a [Peer] section of the file. A nil field is not given in it.
type wgPeerSection struct {
	header       Position
	seen         map[string]int // lines of its keys
	publicKey    key.NodePublic
	keyAt        Position // of the public key, valid or not
	presharedKey *key.Preshared
	endpoint     *Endpoint
	keepalive    *time.Duration
	allowed      []allowedIP
}

type allowedIP struct {
	prefix netip.Prefix
	at     Position
}

// wgKey is a key of wg-quick files.
type wgKey struct {
	name    string // as the manual writes it
	section section
	read    func(*wgParser, entry) // parses the value
	repeat  repetition
}

// repetition says what a second value of a key in one section does with the first.
type repetition int

const (
	replaces repetition = iota
	addsUp
)

var wgKeys = map[string]wgKey{
	"privatekey": {"PrivateKey", interfaceSection, (*wgParser).readPrivateKey, replaces},
	"listenport": {"ListenPort", interfaceSection, (*wgParser).readListenPort, replaces},
	"fwmark":     {"FwMark", interfaceSection, (*wgParser).readFwMark, replaces},
	"address":    {"Address", interfaceSection, (*wgParser).readAddress, addsUp},
	"dns":        {"DNS", interfaceSection, (*wgParser).readDNS, addsUp},
	"mtu":        {"MTU", interfaceSection, (*wgParser).readMTU, replaces},
	"table":      {"Table", interfaceSection, (*wgParser).readTable, replaces},
	"preup":      {"PreUp", interfaceSection, (*wgParser).readCommand, addsUp},
	"postup":     {"PostUp", interfaceSection, (*wgParser).readCommand, addsUp},
	"predown":    {"PreDown", interfaceSection, (*wgParser).readCommand, addsUp},
	"postdown":   {"PostDown", interfaceSection, (*wgParser).readCommand, addsUp},
	"saveconfig": {"SaveConfig", interfaceSection, (*wgParser).readSaveConfig, replaces},

	"publickey":           {"PublicKey", peerSection, (*wgParser).readPublicKey, replaces},
	"presharedkey":        {"PresharedKey", peerSection, (*wgParser).readPresharedKey, replaces},
	"endpoint":            {"Endpoint", peerSection, (*wgParser).readEndpoint, replaces},
	"allowedips":          {"AllowedIPs", peerSection, (*wgParser).readAllowedIPs, addsUp},
	"persistentkeepalive": {"PersistentKeepalive", peerSection, (*wgParser).readKeepalive, replaces},
}

// parse reads every line.
func (p *wgParser) parse(s string) {
	in := noSection
	scanner := lineScanner{file: p.file, rest: s}
	for {
		line, ok := scanner.next()
		if !ok {
			return
		}
		if opened, ok := header(line); ok {
			in = opened
			p.open(in, line, scanner.start(line))
			continue
		}
		if in == unknownSection {
			continue
		}
		e, ok := scanner.entry(line)
		if !ok {
			// The line is not quoted, because it may contain a secret key.
			p.problems.add(scanner.start(line), "is neither a section nor Key = Value")
			continue
		}
		p.entry(in, e)
		p.noteAmnezia(e)
	}
}

// open starts a section. As in wg, a second [Interface] continues the first.
func (p *wgParser) open(in section, line string, at Position) {
	switch in {
	case interfaceSection:
		if len(p.seen) == 0 {
			p.header = at
		}
	case peerSection:
		p.sections = append(p.sections, &wgPeerSection{header: at, seen: make(map[string]int)})
	case unknownSection:
		p.skipped++
		name, closed := strings.CutSuffix(squeeze(line)[1:], "]")
		if !closed {
			p.problems.add(at, "section has no closing bracket at the end of the line")
			return
		}
		p.problems.add(at, "unknown %s, want [Interface] or [Peer]", named("section", name))
	}
}

// entry calls the parser of the line's key.
func (p *wgParser) entry(in section, e entry) {
	k, known := wgKeys[strings.ToLower(e.key)]
	switch {
	case !known:
		p.problems.add(e.keyAt, "unknown %s", named("key", e.key))
		return
	case in == noSection:
		p.problems.add(e.keyAt, "%s is before the first section, but belongs in %v", k.name, k.section)
		return
	case in != k.section:
		p.problems.add(e.keyAt, "%s is in %v, but belongs in %v", k.name, in, k.section)
		return
	}
	seen := p.seen
	if in == peerSection {
		seen = p.peer().seen
	}
	if line, again := seen[k.name]; again && k.repeat == replaces {
		p.warnings.add(e.keyAt, "%s replaces the one on line %d", k.name, line)
	}
	seen[k.name] = e.keyAt.Line
	e.key = k.name
	k.read(p, e)
}

// peer returns the [Peer] section that is being read.
func (p *wgParser) peer() *wgPeerSection { return p.sections[len(p.sections)-1] }

// finish checks the file as a whole and merges the sections.
func (p *wgParser) finish() {
	p.require()
	p.problems.sort()
	if len(p.problems) > 0 {
		return
	}
	if p.config.MTU != 0 && p.config.MTU < minMTUv6 && slices.ContainsFunc(p.config.Addresses, isIPv6) {
		p.warnings.add(p.mtuAt, "MTU %d is below %d, without which there is no IPv6", p.config.MTU, minMTUv6)
	}
	p.merge()
	if len(p.config.Peers) == 0 {
		p.warnings.add(p.header, "no [Peer] is given")
	}
	p.warnings.sort()
}

// require reports missing keys, unless they may be in an unknown section.
func (p *wgParser) require() {
	if p.skipped > 0 {
		return
	}
	if p.keyAt == (Position{}) {
		p.problems.add(p.header, "PrivateKey is missing in [Interface]")
	}
	if p.addressAt == (Position{}) {
		p.problems.add(p.header, "Address is missing in [Interface]")
	}
	for _, s := range p.sections {
		if s.keyAt == (Position{}) {
			p.problems.add(s.header, "PublicKey is missing in this [Peer]")
		}
	}
}

// wgOwner is the peer to which a prefix is allowed, and the line of that AllowedIPs.
type wgOwner struct {
	peer *WireGuardPeer
	line int
}

// merge makes peers of the sections as the device does when wg passes it the sections in order:
//
//   - A section with the public key of an earlier one updates that peer. The settings that it has
//     replace the earlier ones. Its AllowedIPs replace all earlier AllowedIPs, even if it has none.
//   - A prefix belongs to the last peer that lists it.
//   - A peer with the device's own public key is ignored.
func (p *wgParser) merge() {
	var (
		own     = p.config.PrivateKey.Public()
		peers   []*WireGuardPeer
		byKey   = make(map[key.NodePublic]*WireGuardPeer)
		firstAt = make(map[key.NodePublic]int)
		owners  = make(map[netip.Prefix]wgOwner)
	)
	for _, s := range p.sections {
		if s.publicKey == own {
			p.warnings.add(s.keyAt, "PublicKey belongs to the PrivateKey of [Interface]: this peer is ignored")
			continue
		}
		peer, again := byKey[s.publicKey]
		if again {
			p.warnings.add(s.keyAt, "PublicKey is that of the peer on line %d, which this one changes", firstAt[s.publicKey])
		} else {
			peer = &WireGuardPeer{PublicKey: s.publicKey}
			byKey[s.publicKey], firstAt[s.publicKey] = peer, s.keyAt.Line
			peers = append(peers, peer)
		}
		s.update(peer)
		p.allow(peer, s.allowed, owners)
	}
	for _, peer := range peers {
		lost := func(prefix netip.Prefix) bool { return owners[prefix].peer != peer }
		peer.AllowedIPs = slices.DeleteFunc(peer.AllowedIPs, lost)
		p.config.Peers = append(p.config.Peers, *peer)
	}
}

// update applies the settings of s to peer, except AllowedIPs.
func (s *wgPeerSection) update(peer *WireGuardPeer) {
	if s.presharedKey != nil {
		peer.PresharedKey = *s.presharedKey
	}
	if s.endpoint != nil {
		peer.Endpoint = *s.endpoint
	}
	if s.keepalive != nil {
		peer.PersistentKeepalive = *s.keepalive
	}
}

// allow replaces the AllowedIPs of peer by prefixes.
func (p *wgParser) allow(peer *WireGuardPeer, prefixes []allowedIP, owners map[netip.Prefix]wgOwner) {
	for _, prefix := range peer.AllowedIPs {
		if owners[prefix].peer == peer {
			delete(owners, prefix)
		}
	}
	peer.AllowedIPs = nil
	for _, a := range prefixes {
		former, taken := owners[a.prefix]
		if taken && former.peer == peer {
			continue
		}
		if taken {
			p.warnings.add(a.at, "AllowedIPs: %v is given to another peer on line %d; the last one has it",
				a.prefix, former.line)
		}
		owners[a.prefix] = wgOwner{peer, a.at.Line}
		peer.AllowedIPs = append(peer.AllowedIPs, a.prefix)
	}
}

// named returns kind followed by name in quotes. It omits a name that is long or has other
// characters than letters, because that may be a misplaced secret.
func named(kind, name string) string {
	notLetter := func(r rune) bool { lower := r | 0x20; return lower < 'a' || lower > 'z' }
	if name == "" || len(name) > 24 || strings.ContainsFunc(name, notLetter) && !isShortName(name) {
		return kind
	}
	return kind + " " + quote(name)
}
