package interop

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"

	"ginnel/key"
	"ginnel/node"
	"ginnel/relay"
)

// ourNode is a Ginnel node.
type ourNode struct {
	*node.Node
	tb   testing.TB
	name string
	cfg  node.Config
	addr netip.Addr

	closing sync.Once
}

// newOurNode starts a node until the test ends. It takes only the key and the UDP settings from
// cfg.
func newOurNode(tb testing.TB, name string, cfg node.Config, addr netip.Addr, relays relay.Map) *ourNode {
	tb.Helper()
	if cfg.Key.IsZero() {
		cfg.Key = key.NewNodePrivate()
	}
	cfg.Map = node.NetworkMap{Name: name, Addresses: prefixes(addr), Relays: relays, Home: 1}
	cfg.Log = testLog(tb, name)
	n, err := node.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	out := &ourNode{Node: n, tb: tb, name: name, cfg: cfg, addr: addr}
	tb.Cleanup(out.close)
	return out
}

func (n *ourNode) close() { n.closing.Do(func() { n.Node.Close() }) }

func (n *ourNode) waitReady() {
	n.tb.Helper()
	eventually(n.tb, n.name+" has a relay and endpoints", func() bool {
		s := n.Status()
		return s.State == node.StateRunning && (n.cfg.RelayOnly || len(s.Self.Endpoints) > 0)
	})
}

func (n *ourNode) ownEndpoints() []netip.AddrPort { return n.Status().Self.Endpoints }
func (n *ourNode) public() key.NodePublic         { return n.cfg.Key.Public() }
func (n *ourNode) disco() key.DiscoPublic         { return n.DiscoKey() }
func (n *ourNode) udpPort() uint16                { return n.UDPPort() }
func (n *ourNode) address() netip.Addr            { return n.addr }

// setPeers gives the node a network map with these peers.
func (n *ourNode) setPeers(relays relay.Map, peers ...node.Peer) {
	n.tb.Helper()
	err := n.SetMap(node.NetworkMap{Name: n.name, Addresses: prefixes(n.addr), Peers: peers, Relays: relays, Home: 1})
	if err != nil {
		n.tb.Fatal(err)
	}
}

// path returns the direct address by which the node sends to a peer, invalid if it uses the relay.
func (n *ourNode) path(peer key.NodePublic) netip.AddrPort {
	for _, p := range n.Status().Peers {
		if p.NodeKey == peer && p.Path == node.PathDirect {
			ap, _ := netip.ParseAddrPort(p.Endpoint)
			return ap
		}
	}
	return netip.AddrPort{}
}

func (n *ourNode) dialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return n.DialContext(ctx, "tcp", to.String())
}

func (n *ourNode) dialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return n.DialContext(ctx, "udp", to.String())
}

func (n *ourNode) listenTCP(port uint16) (net.Listener, error) {
	return n.Listen(netip.AddrPortFrom(n.addr, port))
}

func (n *ourNode) listenUDP(port uint16) (net.PacketConn, error) {
	return n.ListenPacket(netip.AddrPortFrom(n.addr, port))
}
