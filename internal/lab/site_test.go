//go:build lab

package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ginnel/internal/netem"
	"ginnel/key"
)

// site is a private network behind a stock WireGuard peer, and a client that has to reach it:
//
//	client ───────────── router ───────────── gate ───────────── inner
//	198.51.100.2         .1  203.0.113.1      203.0.113.2        10.88.0.2
//	2001:db8:1::2        2001:db8:2::1        2001:db8:2::2      fd88::2
//	(10.77.0.2)                               (10.77.0.1)
//	(fd77::2)              in the tunnel:     (fd77::1)
type site struct {
	t                           *testing.T
	client, router, gate, inner *netns
	peer                        *stockPeer
	key                         key.NodePrivate // of the client
	dir                         string          // of the client
	nodes                       int
}

const (
	gatePort = 51820

	clientAddr4, clientAddr6 = "198.51.100.2", "2001:db8:1::2"
	gateAddr4, gateAddr6     = "203.0.113.2", "2001:db8:2::2"
	innerAddr4, innerAddr6   = "10.88.0.2", "fd88::2"
	nodeAddr4, nodeAddr6     = "10.77.0.2", "fd77::2" // of ginnel in the tunnel
	peerAddr4, peerAddr6     = "10.77.0.1", "fd77::1" // of the stock peer in the tunnel
)

// endpoint4 is the initial endpoint of the stock peer.
const endpoint4 = gateAddr4 + ":51820"

// newSite builds the networks, and starts the stock peer and the services on it and behind it.
func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteLinked(t, link)
}

// newSiteOverPath is newSite with an emulated path between router and gate, the same in both
// directions.
func newSiteOverPath(t *testing.T, path netem.Config) *site {
	t.Helper()
	return newSiteLinked(t, func(a *netns, devA string, b *netns, devB string) { wireLink(a, devA, b, devB, path, path) })
}

// newSiteLinked is newSite with connect making the link between router and gate.
func newSiteLinked(t *testing.T, connect func(a *netns, devA string, b *netns, devB string)) *site {
	t.Helper()
	s := &site{t: t, key: key.NewNodePrivate(), dir: newDir(t, "client")}
	s.client, s.router = newNetns(t, "client"), newNetns(t, "router")
	s.gate, s.inner = newNetns(t, "gate"), newNetns(t, "inner")
	s.router.forward()
	s.gate.forward()
	link(s.client, "wan", s.router, "client")
	connect(s.router, "gate", s.gate, "wan")
	link(s.gate, "inner", s.inner, "wan")
	// The tunnel's MTU. Path MTU discovery would lose the first large datagrams.
	s.inner.ip("link", "set", "wan", "mtu", "1420")

	s.client.addr("wan", clientAddr4+"/24", clientAddr6+"/64")
	s.router.addr("client", "198.51.100.1/24", "2001:db8:1::1/64")
	s.router.addr("gate", "203.0.113.1/24", "2001:db8:2::1/64")
	s.gate.addr("wan", gateAddr4+"/24", gateAddr6+"/64")
	s.gate.addr("inner", "10.88.0.1/24", "fd88::1/64")
	s.inner.addr("wan", innerAddr4+"/24", innerAddr6+"/64")
	s.client.defaultRoutes()
	s.gate.route("203.0.113.1", "default")
	s.gate.route("2001:db8:2::1", "default")
	s.inner.route("10.88.0.1", "default")
	s.inner.route("fd88::1", "default")

	s.peer = newStockPeer(s.gate, gatePort, peerAddr4+"/24", peerAddr6+"/64")
	s.peer.clients[s.key.Public()] = stockClient{allowed: []string{nodeAddr4 + "/32", nodeAddr6 + "/128"}}
	s.peer.start()
	s.gate.startServices("gate")
	s.inner.startServices("inner")
	return s
}

// defaultRoutes adds the client's default routes, which the kernel removes with its address.
func (n *netns) defaultRoutes() {
	n.t.Helper()
	n.route("198.51.100.1", "default")
	n.route("2001:db8:1::1", "default")
}

// wgFile describes a wg-quick file. Its zero value leads to the site's stock peer over IPv4.
type wgFile struct {
	iface    []string // further lines of [Interface]
	peer     []string // further lines of the first [Peer]
	endpoint string   // of the first peer
	allowed  string
	more     string // further sections
}

// file writes a wg-quick file for this site and returns its path.
func (s *site) file(f wgFile) string {
	s.t.Helper()
	s.nodes++
	if f.endpoint == "" {
		f.endpoint = endpoint4
	}
	if f.allowed == "" {
		f.allowed = "10.77.0.0/24, 10.88.0.0/24, fd77::/64, fd88::/64"
	}
	public := [key.Size]byte(s.peer.key.Public())
	text := fmt.Sprintf("[Interface]\nPrivateKey = %s\nAddress = %s/32, %s/128\n%s\n\n"+
		"[Peer]\nPublicKey = %s\nEndpoint = %s\nAllowedIPs = %s\n%s\n\n%s\n",
		base64Of(s.key.Raw()), nodeAddr4, nodeAddr6, strings.Join(f.iface, "\n"), base64Of(public), f.endpoint, f.allowed,
		strings.Join(f.peer, "\n"), f.more)
	return writeFile(s.t, fmt.Sprintf("%s/wg%d.conf", s.dir, s.nodes), text)
}

// betweenHandshakes is the pause that a stock peer requires between two initiations of one client.
// It drops earlier ones as a flood.
const betweenHandshakes = 30 * time.Millisecond

// up starts ginnel with a wg-quick file and further flags.
func (s *site) up(f wgFile, flags ...string) *ginnel {
	s.t.Helper()
	time.Sleep(betweenHandshakes)
	return startGinnel(s.client, s.key, append([]string{"up", "--wireguard", s.file(f)}, flags...)...)
}
