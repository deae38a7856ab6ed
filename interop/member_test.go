package interop

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/node"
	"ginnel/relay"
)

// member is a node of the mesh, ours or theirs.
type member interface {
	public() key.NodePublic
	disco() key.DiscoPublic
	address() netip.Addr
	udpPort() uint16
	ownEndpoints() []netip.AddrPort
	setPeers(relays relay.Map, peers ...node.Peer)
	waitReady()
	path(peer key.NodePublic) netip.AddrPort
	dialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	dialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	listenTCP(port uint16) (net.Listener, error)
	listenUDP(port uint16) (net.PacketConn, error)
	close()
}

var (
	_ member = (*ourNode)(nil)
	_ member = (*theirNode)(nil)
)

// meshAddrs are the mesh addresses of a test's two members.
var meshAddrs = [2]netip.Addr{netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")}

// address6 returns the IPv6 address of the member with the IPv4 address a.
func address6(a netip.Addr) netip.Addr {
	b := netip.MustParseAddr("fd7a:115c:a1e0::").As16()
	b[15] = a.As4()[3]
	return netip.AddrFrom16(b)
}

// prefixes returns both addresses of a member as a network map lists them.
func prefixes(a netip.Addr) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(a, 32), netip.PrefixFrom(address6(a), 128)}
}

// entry returns a member as a network map lists it.
func entry(m member) node.Peer {
	return node.Peer{Name: "peer-" + m.address().String(), Key: m.public(), Disco: m.disco(), Region: 1,
		Addresses: prefixes(m.address()), Endpoints: m.ownEndpoints()}
}

// exchangePeers gives both members a network map with the other one, as a coordination server does
// after each change.
func exchangePeers(relays relay.Map, a, b member) {
	a.setPeers(relays, entry(b))
	b.setPeers(relays, entry(a))
}

// upgradeLimit is how long two members may take to find a direct path once there is one. Their node
// looks for one every five seconds while there is traffic, and may have looked just before.
const upgradeLimit = 20 * time.Second

// wantDirect waits until a and b send directly to each other.
func wantDirect(t *testing.T, a, b member) {
	t.Helper()
	for _, way := range [][2]member{{a, b}, {b, a}} {
		eventuallyWithin(t, upgradeLimit, way[0].address().String()+" sends directly", func() bool {
			return way[0].path(way[1].public()).Port() == way[1].udpPort()
		})
	}
}

// wantRelayed waits until neither member sends directly.
func wantRelayed(t *testing.T, a, b member) {
	t.Helper()
	eventuallyWithin(t, upgradeLimit, "both send through the relay", func() bool {
		return !a.path(b.public()).IsValid() && !b.path(a.public()).IsValid()
	})
}
