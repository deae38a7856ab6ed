//go:build lab

package lab

import (
	"testing"
	"time"

	"ginnel/node"
	"ginnel/relay"
)

// A stock peer restarts at the same address without its sessions. A transfer through it continues.
func TestStockPeerRestarts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := s.up(wgFile{})
	b := s.startInnerBulk()
	b.settled()
	s.peer.restart()
	took := b.flows("after the peer has restarted", 45*time.Second)
	t.Logf("healed %v after the peer had restarted", took.Round(time.Millisecond))
	b.finish()
	g.end()
}

// restartBeta kills beta and starts it again with the same key, but without its sessions and its
// disco key.
func (m *mesh) restartBeta() {
	m.t.Helper()
	m.beta.kill()
	peers := m.beta.order.Peers
	m.beta.order.Peers = nil
	m.beta.start()
	m.beta.order.Peers = peers
	m.beta.tell()
}

// A node restarts, and the network map has its new disco key at once, as with a coordination
// server. The next connection to it does not wait until WireGuard gives up the old session.
func TestNodeRestarts(t *testing.T) {
	t.Parallel()
	m := newMesh(t, open, open)
	if err := m.alpha.host.fetch("beta"); err != nil {
		t.Fatal(err)
	}
	m.alpha.awaitPath(node.PathDirect, dialTimeout)
	m.restartBeta()
	m.setPeer(m.alpha, m.beta)
	start := time.Now()
	err := m.alpha.host.fetch("beta")
	took := time.Since(start).Round(time.Millisecond)
	t.Logf("the first page came after %v", took)
	if err != nil || took > 10*time.Second {
		t.Errorf("fetching a page from a peer that has restarted: %v after %v, want it within 10 s", err, took)
	}
	m.alpha.awaitPath(node.PathDirect, 15*time.Second)
}

// A node restarts and the network map keeps the old disco key. The node is reached again through
// the relay once WireGuard has given up the old session.
func TestNodeRestartsUnannounced(t *testing.T) {
	t.Parallel()
	m := newMesh(t, open, open)
	if err := m.alpha.host.fetch("beta"); err != nil {
		t.Fatal(err)
	}
	m.alpha.awaitPath(node.PathDirect, dialTimeout)
	m.restartBeta()
	start := time.Now()
	err := m.alpha.host.fetch("beta")
	if err != nil {
		t.Logf("first connection to a peer that has restarted: %v", err)
		err = m.alpha.host.fetch("beta")
	}
	if err != nil {
		t.Errorf("second connection to a peer that has restarted: %v", err)
	}
	t.Logf("the first page came after %v", time.Since(start).Round(time.Millisecond))
	if got := m.alpha.path(); got != node.PathRelay {
		t.Errorf("path is %q, want %q: the disco key that alpha knows is the old one", got, node.PathRelay)
	}
}

// A peer that leaves the network map is no longer reachable, and a dial to its address says so.
// When it returns, it is reached at once, and an old connection to it continues.
func TestPeerLeavesTheMap(t *testing.T) {
	t.Parallel()
	m := newMesh(t, open, open)
	b := m.alpha.bulk(meshRate)
	b.settled()
	peers := m.alpha.order.Peers
	m.alpha.order.Peers = nil
	m.alpha.tell()
	eventually(t, "the peer has left", dialTimeout, func() bool { return len(m.alpha.status().Peers) == 0 })
	_, err := m.alpha.host.viaConnect(defaultProxy, "100.64.0.2:80")
	assertRefused(t, "peer that has left", err, "502", "no peer has this address")
	m.alpha.order.Peers = peers
	m.alpha.tell()
	eventually(t, "the peer is back", dialTimeout, func() bool { return len(m.alpha.status().Peers) == 1 })
	start := time.Now()
	if err := m.alpha.host.fetch("beta"); err != nil {
		t.Errorf("peer that has come back: %v", err)
	}
	t.Logf("peer left the map and came back: the first page came after %v", time.Since(start).Round(time.Millisecond))
	b.flows("after its peer has come back", dialTimeout)
	b.finish()
}

// Two nodes with home relays in different regions reach each other through the other's home relay.
// A restart of one relay does not disturb traffic through the other.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	m := newMesh(t, hard, hard)
	host := newNetns(t, "relay2")
	link(m.internet, "relay2", host, "wan")
	m.internet.addr("relay2", "192.0.3.1/24")
	host.addr("wan", "192.0.3.2/24")
	host.route("192.0.3.1", "default")
	second := startRelay(host, "192.0.3.2")
	const region = relayRegion + 1
	relays := m.relay.relays()
	n := second.node
	n.Name, n.RegionID = "901a", region
	relays.Regions[region] = &relay.Region{RegionID: region, RegionCode: "second", Nodes: []*relay.Node{&n}}
	for _, node := range []*meshNode{m.alpha, m.beta} {
		node.order.Relays = relays
	}
	m.beta.order.Home = region
	m.alpha.order.Peers[0].Region = region
	m.alpha.tell()
	m.beta.tell()
	m.beta.awaitHome("second")
	ab, ba := m.alpha.bulk(meshRate), m.beta.bulk(meshRate)
	ab.settled()
	ba.settled()
	for _, r := range m.alpha.status().Relays {
		if own := r.Name == "lab"; own && r.RxPackets < 100 || !own && r.TxPackets < 100 {
			t.Errorf("a node does not receive through its own home relay and send through its peer's: %+v", r)
		}
	}
	second.kill()
	time.Sleep(2 * time.Second)
	second.start()
	t.Logf("relay of beta killed for 2 s: flows %v and %v after its start",
		ab.flows("from alpha", 30*time.Second).Round(time.Millisecond),
		ba.flows("from beta", 30*time.Second).Round(time.Millisecond))
	ab.finish()
	ba.finish()
}

// awaitHome waits until the node is connected to its home relay.
func (n *meshNode) awaitHome(name string) {
	n.t.Helper()
	eventually(n.t, n.order.Name+" is connected to its home relay", dialTimeout, func() bool {
		s := n.status()
		return s.State == node.StateRunning && s.Self.Relay == name
	})
}

// A node with RelayOnly set uses no UDP and stays reachable through the relay.
func TestRelayOnly(t *testing.T) {
	t.Parallel()
	m := newMeshHosts(t, open, open)
	link(m.alpha.host, "wan", m.alpha.router, "inside")
	link(m.beta.host, "wan", m.beta.router, "inside")
	m.alpha.order.RelayOnly = true
	m.start()
	b := m.alpha.bulk(meshRate)
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); {
		b.flows("through the relay", dialTimeout)
	}
	if a, bt := m.alpha.path(), m.beta.path(); a != node.PathRelay || bt != node.PathRelay {
		t.Errorf("paths are %q and %q, want %q", a, bt, node.PathRelay)
	}
	b.finish()
}
