package interop

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"testing"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest"
	tskey "tailscale.com/types/key"

	"ginnel/key"
	"ginnel/relay"
	relayserver "ginnel/relay/server"
)

// joinTrusted connects their client with a mesh key, after set has configured it.
func joinTrusted(tb testing.TB, h *relayHost, k key.NodePrivate, mesh relay.MeshKey,
	set func(*derphttp.Client)) *testClient {
	tb.Helper()
	c, err := newTheirClient(tb, h, fastStart, k)
	if err != nil {
		tb.Fatal(err)
	}
	if c.MeshKey, err = tskey.ParseDERPMesh(meshKeyText(mesh)); err != nil {
		tb.Fatal(err)
	}
	set(c.Client)
	if err := c.Connect(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return newTestClient(tb, "their trusted client", c, k.Public())
}

func watching(c *derphttp.Client) { c.WatchConnectionChanges = true }

// TestMeshWatch proves that both servers tell a trusted client that watches about every client that
// is there, comes or leaves, with the same flags and the right address.
func TestMeshWatch(t *testing.T) {
	mesh := newMeshKey()
	eachRelay(t, relayserver.Config{MeshKey: mesh}, func(t *testing.T, h *relayHost) {
		regular := ours.join(t, h, fastStart)
		w := joinTrusted(t, h, key.NewNodePrivate(), mesh, watching)
		wantPresent(t, w, map[key.NodePublic]derp.PeerPresentFlags{
			regular.public: derp.PeerPresentIsRegular,
			w.public:       derp.PeerPresentIsMeshPeer,
		})
		local := regular.derpClient.(ourClient)
		prober := joinTrusted(t, h, key.NewNodePrivate(), relay.MeshKey{}, probing)
		wantPresent(t, w, map[key.NodePublic]derp.PeerPresentFlags{prober.public: derp.PeerPresentIsProber})
		for _, m := range clients {
			p := joinNotIdeal(t, h, m)
			wantPresent(t, w, map[key.NodePublic]derp.PeerPresentFlags{p.public: derp.PeerPresentNotIdeal})
		}
		local.close()
		w.wantGone(regular.public, reasonDisconnected)
	})
}

// wantPresent checks that PeerPresent arrives for these clients, in any order, with their flags and
// an address on loopback.
func wantPresent(t *testing.T, w *testClient, want map[key.NodePublic]derp.PeerPresentFlags) {
	t.Helper()
	for len(want) > 0 {
		e := w.next(presentEvent)
		flags, ok := want[e.peer]
		if !ok {
			t.Fatalf("unexpected PeerPresent for %v", e.peer)
		}
		delete(want, e.peer)
		var addr string
		var got derp.PeerPresentFlags
		fmt.Sscanf(string(e.data), "%s %b", &addr, &got)
		ap, err := netip.ParseAddrPort(addr)
		if err != nil || ap.Addr() != netip.MustParseAddr("127.0.0.1") || ap.Port() == 0 || got != flags {
			t.Errorf("client at %s with flags %b, want one on loopback with %b", addr, got, flags)
		}
	}
}

// joinNotIdeal connects to the second relay of a region whose first one is down, so that the client
// tells the relay that it is not the ideal one.
func joinNotIdeal(t *testing.T, h *relayHost, m clientKind) *testClient {
	t.Helper()
	first, second := h.node(fastStart), h.node(fastStart)
	first.Name, first.DERPPort = "1down", 1
	region := &relay.Region{RegionID: 1, Nodes: []*relay.Node{first, second}}
	k := key.NewNodePrivate()
	if m.name == ours.name {
		c, err := relay.DialRegion(t.Context(), region, relay.ClientConfig{Key: k})
		if err != nil {
			t.Fatal(err)
		}
		return newTestClient(t, m.name, ourClient{c}, k.Public())
	}
	their := theirMap(t, relay.Map{Regions: map[int]*relay.Region{1: region}}).Regions[1]
	c := derphttp.NewRegionClient(theirPrivate(k), tstest.WhileTestRunningLogger(t), netmon.NewStatic(),
		func() *tailcfg.DERPRegion { return their })
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return newTestClient(t, m.name, theirClient{c}, k.Public())
}

// TestMeshForward proves that both servers deliver packets that a trusted client forwards for
// others, and answer a forwarded disco packet for an unknown key with PeerGone, reason NotHere.
func TestMeshForward(t *testing.T) {
	mesh := newMeshKey()
	eachRelay(t, relayserver.Config{MeshKey: mesh}, func(t *testing.T, h *relayHost) {
		w := joinTrusted(t, h, key.NewNodePrivate(), mesh, watching)
		link := w.derpClient.(theirClient)
		source, nobody := key.NewNodePrivate().Public(), key.NewNodePrivate().Public()
		k := key.NewNodePrivate()
		for _, m := range clients {
			p := m.joinAs(t, h, fastStart, k)
			for _, size := range []int{0, 1400, relay.MaxPacket} {
				b := make([]byte, size)
				if err := link.ForwardPacket(theirPublic(source), theirPublic(k.Public()), b); err != nil {
					t.Fatal(err)
				}
				p.wantPacket(source, b)
			}
		}
		if err := link.ForwardPacket(theirPublic(source), theirPublic(nobody), discoLike("hello")); err != nil {
			t.Fatal(err)
		}
		w.wantGone(nobody, reasonNotHere)
	})
}

// TestClosePeer proves that both servers close all connections of a key at a trusted client's
// request, and tell watchers once.
func TestClosePeer(t *testing.T) {
	mesh := newMeshKey()
	eachRelay(t, relayserver.Config{MeshKey: mesh}, func(t *testing.T, h *relayHost) {
		w := joinTrusted(t, h, key.NewNodePrivate(), mesh, watching)
		k := key.NewNodePrivate()
		a := ours.joinAs(t, h, fastStart, k)
		b := theirs.joinAs(t, h, webSocket, k) // unlike their HTTP client, it does not reconnect
		if err := w.derpClient.(theirClient).ClosePeer(theirPublic(k.Public())); err != nil {
			t.Fatal(err)
		}
		a.next(endEvent)
		b.next(endEvent)
		w.wantGone(k.Public(), reasonDisconnected)
	})
}

// TestMeshRefused proves that both servers close the connection of a client that watches with a
// wrong mesh key.
func TestMeshRefused(t *testing.T) {
	eachRelay(t, relayserver.Config{MeshKey: newMeshKey()}, func(t *testing.T, h *relayHost) {
		joinTrusted(t, h, key.NewNodePrivate(), newMeshKey(), watching).next(endEvent)
	})
}

// theirMeshLink keeps a mesh link from their server to another until the test ends, as cmd/derper
// does. The result is closed when the link has ended.
func theirMeshLink(tb testing.TB, from *relayHost, to *relayHost) <-chan struct{} {
	tb.Helper()
	s := from.server.(theirRelay)
	c, err := derphttp.NewClient(s.PrivateKey(), to.fronts[fastStart].url(), tstest.WhileTestRunningLogger(tb),
		netmon.NewStatic())
	if err != nil {
		tb.Fatal(err)
	}
	c.TLSConfig = &tls.Config{RootCAs: to.roots}
	c.MeshKey = s.MeshKey()
	c.WatchConnectionChanges = true
	ctx, cancel := context.WithCancel(context.Background())
	donec := make(chan struct{})
	go func() {
		defer close(donec)
		add := func(m derp.PeerPresentMessage) { s.AddPacketForwarder(m.Key, c) }
		remove := func(m derp.PeerGoneMessage) { s.RemovePacketForwarder(m.Peer, c) }
		c.RunWatchConnectionLoop(ctx, s.PublicKey(), nil, add, remove, nil)
	}()
	tb.Cleanup(func() {
		cancel()
		c.Close()
		<-donec
	})
	return donec
}

// startMesh starts a relay of each make and links them in both directions.
func startMesh(t *testing.T) (our, their *relayHost) {
	t.Helper()
	mesh := newMeshKey()
	our = startOurRelay(t, relayserver.Config{MeshKey: mesh})
	their = startTheirRelay(t, relayserver.Config{MeshKey: mesh})
	meshOurs(t, our, their)
	theirMeshLink(t, their, our)
	return our, their
}

// meshOurs keeps a mesh link from our server to another.
func meshOurs(t *testing.T, from, to *relayHost) {
	t.Helper()
	err := from.server.(ourRelay).Mesh(to.fronts[fastStart].url(), relay.ClientConfig{Roots: to.roots})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitDelivery waits until packets from a reach b, and drops them.
func awaitDelivery(t *testing.T, a, b *testClient) {
	t.Helper()
	sent, got := 0, 0
	eventually(t, a.name+" reaches "+b.name+" through the mesh", func() bool {
		sent++
		a.mustSend(b.public, fmt.Appendf(nil, "hello %d", sent))
		for len(b.events) > 0 {
			got = max(got, hello(<-b.events))
		}
		return got > 0
	})
	for got < sent { // after the first that arrived, none is lost
		got = hello(b.next(packetEvent))
	}
}

// hello returns the number of a packet that awaitDelivery sent, 0 for other packets.
func hello(e event) (n int) {
	fmt.Sscanf(string(e.data), "hello %d", &n)
	return n
}

// TestMesh proves that our relay and theirs form one region. Clients of either make on either relay
// exchange thousands of packets unchanged in both directions, and get PeerGone when one leaves the
// region or is nowhere in it.
func TestMesh(t *testing.T) {
	t.Parallel()
	our, their := startMesh(t)
	for _, m := range clients {
		for _, o := range clients {
			a, b := m.join(t, our, fastStart), o.join(t, their, fastStart)
			awaitDelivery(t, a, b)
			awaitDelivery(t, b, a)
			exchange(t, a, b, 500, 1240)
			a.leave()
			b.wantGone(a.public, reasonDisconnected)
			testNotHere(t, b)
			a = m.join(t, our, fastStart)
			awaitDelivery(t, b, a)
			b.leave()
			a.wantGone(b.public, reasonDisconnected)
			testNotHere(t, a)
		}
	}
}

// TestMeshProber proves that an ordinary packet of a trusted client, as the probes of cmd/derpprobe
// send them, reaches a client on another server of the mesh.
func TestMeshProber(t *testing.T) {
	t.Parallel()
	mesh := newMeshKey()
	our := startOurRelay(t, relayserver.Config{MeshKey: mesh})
	their := startTheirRelay(t, relayserver.Config{MeshKey: mesh})
	meshOurs(t, our, their)
	theirMeshLink(t, their, our)
	for _, hosts := range [][2]*relayHost{{their, our}, {our, their}} {
		t.Run("from "+hosts[0].name, func(t *testing.T) {
			from := joinTrusted(t, hosts[0], key.NewNodePrivate(), mesh, probing)
			to := joinTrusted(t, hosts[1], key.NewNodePrivate(), mesh, probing)
			awaitDelivery(t, from, to)
		})
	}
}

func probing(c *derphttp.Client) { c.IsProber = true }

// TestMeshSelf proves that their mesh link to our server ends when it finds that it leads to
// itself, and that our server sends it no news.
func TestMeshSelf(t *testing.T) {
	t.Parallel()
	mesh, k := newMeshKey(), key.NewNodePrivate()
	our := startOurRelay(t, relayserver.Config{Key: k, MeshKey: mesh})
	their := startTheirRelay(t, relayserver.Config{Key: k, MeshKey: mesh})
	select {
	case <-theirMeshLink(t, their, our):
	case <-t.Context().Done():
	}
}

// TestMeshReconnect proves that both servers' mesh links reconnect when the server at the other end
// has restarted.
func TestMeshReconnect(t *testing.T) {
	t.Parallel()
	mesh, keys := newMeshKey(), [2]key.NodePrivate{key.NewNodePrivate(), key.NewNodePrivate()}
	our := startOurRelay(t, relayserver.Config{Key: keys[0], MeshKey: mesh})
	their := startTheirRelay(t, relayserver.Config{Key: keys[1], MeshKey: mesh})
	meshOurs(t, our, their)
	theirMeshLink(t, their, our)
	a, b := ours.join(t, our, fastStart), ours.join(t, their, fastStart)
	awaitDelivery(t, a, b)
	awaitDelivery(t, b, a)

	their.stop()
	b.next(endEvent)
	a.wantGone(b.public, reasonDisconnected)
	their.serve(t, newTheirRelay(t, relayserver.Config{Key: keys[1], MeshKey: mesh}))
	b = ours.join(t, their, fastStart)
	awaitDelivery(t, a, b)

	theirMeshLink(t, their, our) // the first link ended with its server
	awaitDelivery(t, b, a)
	our.stop()
	a.next(endEvent)
	b.wantGone(a.public, reasonDisconnected)
	our.serve(t, newOurRelay(t, relayserver.Config{Key: keys[0], MeshKey: mesh}))
	a = ours.join(t, our, fastStart)
	awaitDelivery(t, b, a)
}
