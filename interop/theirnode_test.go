package interop

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/net/dns"
	"tailscale.com/net/routemanager"
	"tailscale.com/net/tsdial"
	"tailscale.com/tailcfg"
	"tailscale.com/tsd"
	"tailscale.com/tstest"
	tskey "tailscale.com/types/key"
	"tailscale.com/types/logger"
	"tailscale.com/types/netmap"
	"tailscale.com/wgengine"
	"tailscale.com/wgengine/filter"
	"tailscale.com/wgengine/netstack"
	"tailscale.com/wgengine/router"
	"tailscale.com/wgengine/wgcfg"

	"ginnel/key"
	"ginnel/node"
	"ginnel/relay"
)

// theirNode is their node: the engine with path discovery and their WireGuard, with their TCP/IP
// stack on top, assembled as tailscaled does it in userspace mode. setPeers replaces the backend
// that follows a coordination server.
type theirNode struct {
	tb    testing.TB
	name  string
	key   key.NodePrivate
	addr  netip.Addr
	sys   *tsd.System
	eng   wgengine.Engine
	stack *netstack.Impl

	closing sync.Once

	mu        sync.Mutex
	endpoints []netip.AddrPort
	routes    *routemanager.RouteManager
	peers     map[tskey.NodePublic]tailcfg.NodeView
	self      tailcfg.NodeView
}

// newTheirNode starts a node with its own UDP port until the test ends. It has no peers before
// setPeers.
func newTheirNode(tb testing.TB, name string, k key.NodePrivate, addr netip.Addr) *theirNode {
	tb.Helper()
	logf := logger.WithPrefix(tstest.WhileTestRunningLogger(tb), name+": ")
	n := &theirNode{tb: tb, name: name, key: k, addr: addr, sys: tsd.NewSystem(), routes: routemanager.New(nil)}
	dialer := &tsdial.Dialer{Logf: logf}
	dialer.SetBus(n.sys.Bus.Get())
	eng, err := wgengine.NewUserspaceEngine(logf, wgengine.Config{
		EventBus:      n.sys.Bus.Get(),
		Dialer:        dialer,
		SetSubsystem:  n.sys.Set,
		ControlKnobs:  n.sys.ControlKnobs(),
		HealthTracker: n.sys.HealthTracker.Get(),
		Metrics:       n.sys.UserMetricsRegistry(),
		ListenPort:    freeUDPPort(tb),
	})
	if err != nil {
		tb.Fatal(err)
	}
	n.eng = eng
	n.sys.Set(eng)
	tb.Cleanup(n.close)
	if n.stack, err = netstack.Create(logf, n.sys.Tun.Get(), eng, n.sys.MagicSock.Get(), dialer, n.sys.DNSManager.Get(),
		n.sys.ProxyMapper()); err != nil {
		tb.Fatal(err)
	}
	n.sys.Tun.Get().Start()
	n.stack.ProcessLocalIPs = true
	if err := n.stack.Start(nil); err != nil {
		tb.Fatal(err)
	}
	eng.SetFilter(filter.NewAllowAllForTest(logf))
	eng.SetStatusCallback(n.noteStatus)
	eng.SetPeerByIPPacketFunc(n.peerByIP)
	eng.SetPeerConfigFunc(n.allowedIPs)
	eng.SetPeerForIPFunc(n.peerForIP)
	return n
}

// freeUDPPort returns a UDP port that is free in both address families, because a node's sockets
// share one port number.
func freeUDPPort(tb testing.TB) uint16 {
	tb.Helper()
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

func (n *theirNode) close() { n.closing.Do(n.shutDown) }

func (n *theirNode) shutDown() {
	if n.stack != nil {
		n.stack.Close()
	}
	n.eng.Close()
	n.sys.Bus.Get().Close()
}

// noteStatus records the endpoints that the node would report to a coordination server.
func (n *theirNode) noteStatus(s *wgengine.Status, err error) {
	if err != nil || s == nil {
		return
	}
	var addrs []netip.AddrPort
	for _, e := range s.LocalAddrs {
		addrs = append(addrs, e.Addr)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.endpoints = addrs
}

func (n *theirNode) peerByIP(ip netip.Addr) (tskey.NodePublic, bool) {
	r, ok := n.routes.Outbound().Lookup(ip)
	if !ok {
		return tskey.NodePublic{}, false
	}
	return r.Key, true
}

func (n *theirNode) allowedIPs(k tskey.NodePublic) ([]netip.Prefix, bool) {
	n.mu.Lock()
	p, ok := n.peers[k]
	n.mu.Unlock()
	if !ok {
		return nil, false
	}
	return n.routes.PeerAllowedIPs(p.ID())
}

func (n *theirNode) peerForIP(ip netip.Addr) (wgengine.PeerForIP, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.peers {
		for _, prefix := range p.AllowedIPs().All() {
			if prefix.Contains(ip) {
				return wgengine.PeerForIP{Node: p, Route: prefix}, true
			}
		}
	}
	return wgengine.PeerForIP{}, false
}

// setPeers gives the node a network map with these peers, in the form that a coordination server
// sends.
func (n *theirNode) setPeers(relays relay.Map, peers ...node.Peer) {
	n.tb.Helper()
	var list []*tailcfg.Node
	for i, p := range peers {
		list = append(list, &tailcfg.Node{ID: tailcfg.NodeID(i + 2), StableID: tailcfg.StableNodeID(p.Name), Name: p.Name,
			Key: theirPublic(p.Key), DiscoKey: theirDisco(p.Disco), Addresses: p.Addresses, AllowedIPs: p.Addresses,
			Endpoints: p.Endpoints, HomeDERP: p.Region})
	}
	n.setMap(theirMap(n.tb, relays), list)
}

// setMap applies a full network map as their backend does. If a peer's disco key has changed, the
// peer has restarted, and its sessions are dropped.
func (n *theirNode) setMap(derp *tailcfg.DERPMap, peers []*tailcfg.Node) {
	n.tb.Helper()
	self := (&tailcfg.Node{ID: 1, StableID: "self", Name: n.name, Key: theirPublic(n.key.Public()),
		Addresses: prefixes(n.addr), AllowedIPs: prefixes(n.addr)}).View()
	views := make([]tailcfg.NodeView, 0, len(peers))
	byKey := make(map[tskey.NodePublic]tailcfg.NodeView)
	m := n.routes.Begin()
	for _, p := range peers {
		views = append(views, p.View())
		byKey[p.Key] = p.View()
		m.UpsertPeer(p.View())
	}
	m.Commit()
	n.mu.Lock()
	old := n.peers
	n.peers, n.self = byKey, self
	n.mu.Unlock()

	ms := n.sys.MagicSock.Get()
	n.eng.SetSelfNode(self)
	n.stack.UpdateNetstackIPs(&netmap.NetworkMap{SelfNode: self, Peers: views})
	ms.SetDERPMap(derp)
	cfg := &wgcfg.Config{PrivateKey: theirPrivate(n.key), Addresses: prefixes(n.addr)}
	err := n.eng.Reconfig(cfg, &router.Config{LocalAddrs: cfg.Addresses}, &dns.Config{})
	if err != nil && !errors.Is(err, wgengine.ErrNoChanges) {
		n.tb.Fatal(err)
	}
	ms.SetNetworkMap(self, views)
	for k, p := range byKey {
		if before, ok := old[k]; ok && before.DiscoKey() != p.DiscoKey() {
			n.eng.ResetDevicePeer(k)
		}
		n.eng.SyncDevicePeer(k)
	}
}

// waitReady waits until the node has connected to a relay and knows its endpoints.
func (n *theirNode) waitReady() {
	n.tb.Helper()
	eventually(n.tb, n.name+" has a relay and endpoints", func() bool {
		n.eng.RequestStatus()
		return n.sys.MagicSock.Get().DERPs() > 0 && len(n.ownEndpoints()) > 0
	})
}

func (n *theirNode) ownEndpoints() []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.endpoints)
}

func (n *theirNode) public() key.NodePublic { return n.key.Public() }
func (n *theirNode) disco() key.DiscoPublic { return ourDisco(n.sys.MagicSock.Get().DiscoPublicKey()) }
func (n *theirNode) udpPort() uint16        { return n.sys.MagicSock.Get().LocalPort() }
func (n *theirNode) address() netip.Addr    { return n.addr }

// path returns the direct address by which the node sends to a peer, invalid if there is none.
func (n *theirNode) path(peer key.NodePublic) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(n.status(peer).CurAddr)
	return ap
}

func (n *theirNode) status(peer key.NodePublic) ipnstate.PeerStatus {
	sb := ipnstate.StatusBuilder{WantPeers: true}
	n.eng.UpdateStatus(&sb)
	if p := sb.Status().Peer[theirPublic(peer)]; p != nil {
		return *p
	}
	return ipnstate.PeerStatus{}
}

func (n *theirNode) dialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return n.stack.DialContextTCP(ctx, to)
}

func (n *theirNode) dialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return n.stack.DialContextUDPWithBind(ctx, n.addr, to)
}

func (n *theirNode) listenTCP(port uint16) (net.Listener, error) {
	return n.stack.ListenTCP("tcp4", netip.AddrPortFrom(n.addr, port).String())
}

func (n *theirNode) listenUDP(port uint16) (net.PacketConn, error) {
	return n.stack.ListenPacket("udp4", netip.AddrPortFrom(n.addr, port).String())
}
