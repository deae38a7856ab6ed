package configs

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"ginnel/key"
)

// WireGuard is a parsed wg-quick file.
type WireGuard struct {
	PrivateKey key.NodePrivate
	Addresses  []netip.Prefix // at least one; host bits are kept
	ListenPort uint16         // 0: any
	MTU        int            // 0: not given
	DNS        []netip.Addr
	Search     []string // DNS search domains
	Peers      []WireGuardPeer
	Warnings   []Problem // lines that have no effect or are probably mistakes
}

// WireGuardPeer is a peer, after sections with the same public key have been merged. Each prefix is
// allowed to one peer only.
type WireGuardPeer struct {
	PublicKey           key.NodePublic
	PresharedKey        key.Preshared
	Endpoint            Endpoint       // zero: unknown until the peer sends a packet
	AllowedIPs          []netip.Prefix // masked
	PersistentKeepalive time.Duration  // 0: off
}

// Endpoint is the UDP endpoint of a peer.
type Endpoint struct {
	Host string // an address, or a name that is not resolved yet
	Port uint16
}

// AddrPort returns the endpoint, and false if the host is a name.
func (e Endpoint) AddrPort() (netip.AddrPort, bool) {
	addr, err := netip.ParseAddr(e.Host)
	return netip.AddrPortFrom(addr, e.Port), err == nil
}

// String returns host:port, with an IPv6 address in brackets.
func (e Endpoint) String() string {
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// LoadWireGuard reads and parses a wg-quick file. Like wg-quick, it warns if everybody may read the
// file.
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

// worldAccessible reports whether both the file and its directory are accessible to everybody.
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
	return modeBitsApply && file.Mode()&dir.Mode()&0o007 != 0
}

// ParseWireGuard parses b, the contents of the file called name. It accepts whatever wg-quick(8)
// and wg(8) accept, with these exceptions:
//
//   - A private key and an address are required.
//   - A port must be a number, not the name of a service.
//   - Settings that would change the host (commands, routing tables, firewall marks) have no effect
//     and cause a warning.
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
