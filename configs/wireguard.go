package configs

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"ginnel/internal/key"
)

// WireGuard is what a wg-quick file says.
type WireGuard struct {
	PrivateKey key.NodePrivate
	Addresses  []netip.Prefix // at least one; host bits are kept
	ListenPort uint16         // 0: any
	MTU        int            // 0: not given
	DNS        []netip.Addr
	Search     []string // DNS search domains
	Peers      []WireGuardPeer
	Warnings   []Problem // lines without effect, and others that are hardly meant as they are written
}

// WireGuardPeer is one peer, after sections with the same public key have been merged. No prefix is
// allowed to two peers.
type WireGuardPeer struct {
	PublicKey           key.NodePublic
	PresharedKey        key.Preshared
	Endpoint            Endpoint       // zero: unknown, the peer has to speak first
	AllowedIPs          []netip.Prefix // masked
	PersistentKeepalive time.Duration  // 0: off
}

// Endpoint is where a peer is reached: an address or a name, which is not resolved here.
type Endpoint struct {
	Host string
	Port uint16
}

// IsZero reports whether no endpoint is known.
func (e Endpoint) IsZero() bool { return e == Endpoint{} }

// AddrPort returns the address, and false for a name.
func (e Endpoint) AddrPort() (netip.AddrPort, bool) {
	addr, err := netip.ParseAddr(e.Host)
	return netip.AddrPortFrom(addr, e.Port), err == nil
}

// String returns host:port, an IPv6 address in brackets.
func (e Endpoint) String() string {
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// LoadWireGuard reads a wg-quick file. As wg-quick does, it warns of one that everybody may read.
func LoadWireGuard(path string) (*WireGuard, error) {
	b, err := readFile(path, maxWireGuard)
	if err != nil {
		return nil, err
	}
	wg, err := ParseWireGuard(path, b)
	if err != nil {
		return nil, err
	}
	if worldAccessible(path) {
		warning := Problem{Position{File: path}, "is accessible to everybody on this machine and holds a private key"}
		wg.Warnings = append([]Problem{warning}, wg.Warnings...)
	}
	return wg, nil
}

// worldAccessible tells whether others can get at the file itself and at the directory it is in.
func worldAccessible(path string) bool {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	file, err := os.Stat(path)
	if err != nil {
		return false
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return false
	}
	return modeTells && file.Mode()&dir.Mode()&0o007 != 0
}

// ParseWireGuard reads b, the contents of the file name, the way wg-quick(8) and wg(8) do: whatever
// they accept is accepted, with these exceptions. A private key and an address are required, names
// of services do not stand for port numbers, and what would change the host (commands, routing
// tables, firewall marks) has no effect but a warning.
//
// An error is of type Problems.
func ParseWireGuard(name string, b []byte) (*WireGuard, error) {
	s, err := text(name, b, maxWireGuard)
	if err != nil {
		return nil, err
	}
	p := wgParser{file: name, header: Position{name, 1, 1}, seen: make(map[string]int)}
	p.parse(s)
	p.finish()
	if len(p.problems) > 0 {
		return nil, p.problems
	}
	p.config.Warnings = p.warnings
	return &p.config, nil
}
