package server

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/relay/internal/derp"
	"ginnel/relay/internal/rawpeer"
	"ginnel/relay/internal/relaytest"
)

// meshWorld is a region of servers a, b, ... at http://a.example and so on.
type meshWorld struct {
	t   *testing.T
	net *relaytest.Net
	srv map[string]*memRelay
}

func newMeshWorld(t *testing.T, names ...string) *meshWorld {
	w := &meshWorld{t: t, net: relaytest.NewNet(), srv: make(map[string]*memRelay)}
	for _, name := range names {
		w.start(name, key.NewNodePrivate())
	}
	return w
}

func (w *meshWorld) start(name string, k key.NodePrivate) *memRelay {
	s := newTestServer(w.t, Config{Key: k, MeshKey: testMeshKey})
	rawpeer.Serve(w.t, s, w.net.Listen(name+".example:80"), nil)
	w.srv[name] = &memRelay{s, &rawpeer.Relay{T: w.t, Net: &relaytest.Net{}, ServerKey: s.PublicKey(),
		MeshKey: testMeshKey}}
	return w.srv[name]
}

// link makes a link from one server to another.
func (w *meshWorld) link(from, to string) {
	w.t.Helper()
	if err := w.srv[from].Mesh("http://"+to+".example/derp",
		relay.ClientConfig{DialContext: w.net.DialContext}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

// linkAll makes a full mesh.
func (w *meshWorld) linkAll() {
	for from := range w.srv {
		for to := range w.srv {
			if from != to {
				w.link(from, to)
			}
		}
	}
}

// client connects a peer to a server.
func (w *meshWorld) client(server string, k key.NodePrivate) *rawpeer.Peer {
	w.t.Helper()
	return w.login(server, k, derp.ClientInfo{Version: 2})
}

func (w *meshWorld) login(server string, k key.NodePrivate, info derp.ClientInfo) *rawpeer.Peer {
	w.t.Helper()
	conn, err := w.net.DialContext(w.t.Context(), "tcp", server+".example:80")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	p := rawpeer.New(w.t, conn, k)
	p.Upgrade(w.srv[server].public, "")
	p.Login(w.srv[server].public, info)
	synctest.Wait() // until the mesh knows
	return p
}

var testDisco = derp.DiscoMagic + strings.Repeat("d", 60)

// Clients of different servers reach each other; they learn when the other one leaves the region,
// not when it moves.
func TestMesh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMeshWorld(t, "a", "b", "c")
		alice := w.client("a", key.NewNodePrivate()) // there before the links
		w.linkAll()
		bob := w.client("b", key.NewNodePrivate())
		alice.Send(bob.Public(), "hello")
		bob.WantPacket(alice.Public(), "hello")
		bob.Send(alice.Public(), testDisco)
		alice.WantPacket(bob.Public(), testDisco)
		large := strings.Repeat("L", derp.MaxPacket)
		bob.Send(alice.Public(), large)
		alice.WantPacket(bob.Public(), large)
		for i := range 30 { // a run
			bob.Send(alice.Public(), string(rune('a'+i)))
		}
		for i := range 30 {
			alice.WantPacket(bob.Public(), string(rune('a'+i)))
		}
		a := w.srv["a"].Server
		rawpeer.WantMetric(t, a, `ginnel_relay_forwarded_packets_total{direction="out"}`, 1)
		rawpeer.WantMetric(t, a, `ginnel_relay_forwarded_packets_total{direction="in"}`, 32)
		// bob, and a itself: its links are clients of b and c
		rawpeer.WantMetric(t, a, `ginnel_relay_clients{where="remote"}`, 2)
		rawpeer.WantMetric(t, a, "ginnel_relay_watchers", 2)

		// It moves to c: nobody is told, packets follow.
		moved := w.client("c", bob.Key)
		bob.Conn.Close()
		synctest.Wait()
		alice.Send(bob.Public(), "moved")
		moved.WantPacket(alice.Public(), "moved")
		alice.WantIdle()
		// To a, where local wins, although c still knows it.
		here := w.client("a", bob.Key)
		alice.Send(bob.Public(), "here")
		here.WantPacket(alice.Public(), "here")
		here.Conn.Close()
		synctest.Wait()
		alice.Send(bob.Public(), "still at c")
		moved.WantPacket(alice.Public(), "still at c")
		moved.Conn.Close()
		alice.WantGone(bob.Public(), derp.GoneDisconnected)
		alice.WantIdle()
	})
}

// A monitoring program has the mesh key but sends like any client: its packets cross the mesh too
// (5.6).
func TestMeshTrustedClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMeshWorld(t, "a", "b")
		w.linkAll()
		prober := w.login("a", key.NewNodePrivate(), derp.ClientInfo{Version: 2, IsProber: true,
			MeshKey: derp.SealedMeshKey{MeshKey: testMeshKey}})
		other := w.login("b", key.NewNodePrivate(), derp.ClientInfo{Version: 2, IsProber: true,
			MeshKey: derp.SealedMeshKey{MeshKey: testMeshKey}})
		prober.Send(other.Public(), "hello")
		other.WantPacket(prober.Public(), "hello")
		other.Send(prober.Public(), "hello yourself")
		prober.WantPacket(other.Public(), "hello yourself")
		other.Conn.Close()
		prober.WantGone(other.Public(), derp.GoneDisconnected)
	})
}

// "the link registered first is used as long as it is there, then the next oldest" (5.3).
func TestMeshSeveralServersKnowOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMeshWorld(t, "a", "b", "c")
		w.linkAll()
		alice := w.client("a", key.NewNodePrivate())
		k := key.NewNodePrivate()
		atB, atC := w.client("b", k), w.client("c", k)
		alice.Send(k.Public(), "1")
		atB.WantPacket(alice.Public(), "1")
		atB.Conn.Close()
		synctest.Wait()
		alice.Send(k.Public(), "2")
		atC.WantPacket(alice.Public(), "2")
		atB = w.client("b", k)
		alice.Send(k.Public(), "3")
		atC.WantPacket(alice.Public(), "3")
		atB.WantIdle()
		atC.Conn.Close()
		synctest.Wait()
		alice.Send(k.Public(), "4")
		atB.WantPacket(alice.Public(), "4")
	})
}

// A link that breaks takes its routes along, and comes back after 5 s.
func TestMeshLinkBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMeshWorld(t, "a", "b")
		w.linkAll()
		alice, bob := w.client("a", key.NewNodePrivate()), w.client("b", key.NewNodePrivate())
		bob.Send(alice.Public(), "x")
		alice.WantPacket(bob.Public(), "x")
		k := w.srv["b"].cfg.Key
		w.srv["b"].Close()
		alice.WantGone(bob.Public(), derp.GoneDisconnected) // "removing the last forwarder ... triggers PeerGone"
		alice.Send(bob.Public(), testDisco)
		alice.WantGone(bob.Public(), derp.GoneNotHere)
		w.start("b", k)
		bob = w.client("b", bob.Key)
		start := time.Now()
		time.Sleep(meshRetry)
		synctest.Wait()
		alice.Send(bob.Public(), "back")
		bob.WantPacket(alice.Public(), "back")
		if d := time.Since(start); d != meshRetry {
			t.Errorf("back after %v", d)
		}
	})
}

// What a mesh peer may do and what it is told, spoken by hand (5.2, 5.5).
func TestMeshAcceptor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{MeshKey: testMeshKey})
		a := r.Client()
		m := r.MeshClient()
		m.Write(derp.AppendHeader(nil, derp.FrameWatchConns, 0))
		seen := map[key.NodePublic]derp.PresentFlags{}
		for range 2 { // all that are connected, the watcher included, in no particular order
			p := m.WantPresent()
			seen[p.Peer] = p.Flags
		}
		if seen[a.Public()] != derp.PresentRegular || seen[m.Public()] != derp.PresentMesh {
			t.Errorf("announced %v", seen)
		}
		b := r.Client()
		if p := m.WantPresent(); p.Peer != b.Public() || p.Addr.Addr().String() != "198.51.100.1" {
			t.Errorf("announced %+v", p)
		}
		stranger := key.NewNodePrivate().Public()
		m.Write(derp.AppendForwardPacket(nil, stranger, a.Public(), []byte("for a")))
		m.Write(derp.AppendForwardPacket(nil, stranger, a.Public(), []byte("for a too")))
		m.Write(derp.AppendForwardPacket(nil, b.Public(), a.Public(), []byte("from b")))
		m.Write(derp.AppendForwardPacket(nil, a.Public(), b.Public(), []byte("for b")))
		a.WantPacket(stranger, "for a")
		a.WantPacket(stranger, "for a too")
		a.WantPacket(b.Public(), "from b")
		b.WantPacket(a.Public(), "for b")
		m.Write(derp.AppendForwardPacket(nil, a.Public(), stranger, []byte("data")))
		m.WantIdle()
		m.Write(derp.AppendForwardPacket(nil, a.Public(), stranger, []byte(testDisco)))
		m.WantGone(stranger, derp.GoneNotHere) // told to the mesh connection, not to the source
		a.WantIdle()
		r.wantMetric(t, `ginnel_relay_dropped_packets_total{kind="disco",reason="unknown_dest_on_fwd"}`, 1)
		r.wantMetric(t, `ginnel_relay_dropped_packets_total{kind="other",reason="unknown_dest_on_fwd"}`, 1)

		second := r.ClientWithKey(b.Key)
		m.WantPresent()
		m.Write(appendClosePeer(nil, b.Public())) // all connections of the key
		b.WantClosed()
		second.WantClosed()
		m.WantGone(b.Public(), derp.GoneDisconnected)
		a.WantGone(b.Public(), derp.GoneDisconnected)
		m.Write(appendClosePeer(nil, stranger))
		m.Ping()
	})
}

// However often a key comes and goes, a watcher that was not told yet has one thing to be told
// about it: the latest.
func TestMeshSlowWatcher(t *testing.T) {
	s := newTestServer(t, Config{})
	k := key.NewNodePrivate().Public()
	c := bareConn(s, key.NewNodePrivate().Public())
	w := s.registry.watch(c)
	if n := derp.CountFrames(s.registry.appendChanges(w, nil)); n != 1 {
		t.Errorf("%d news for a new watcher, want itself", n)
	}
	for i := range 100 {
		other := bareConn(s, k)
		if i < 99 {
			other.unregister()
		}
	}
	b := s.registry.appendChanges(w, nil)
	if p, ok := derp.ParsePeerPresent(b[derp.HeaderSize:]); derp.CountFrames(b) != 1 || !ok || p.Peer != k {
		t.Errorf("news %x, want that %v is present", b, k)
	}
	s.registry.lookup(k).conns[0].unregister()
	b = s.registry.appendChanges(w, nil)
	if peer, reason, ok := derp.ParsePeerGone(b[derp.HeaderSize:]); derp.CountFrames(b) != 1 || !ok || peer != k ||
		reason != derp.GoneDisconnected {
		t.Errorf("news %x, want that %v is gone", b, k)
	}
	if b := s.registry.appendChanges(w, nil); len(b) != 0 {
		t.Errorf("news %x without a change", b)
	}
	c.unregister()
}

// A watcher that takes nothing for the time limit of mesh peers is cut; others are not held up.
func TestMeshStuckWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, Config{MeshKey: testMeshKey})
		r.Net.Limit = 500
		stuck := r.MeshClient()
		r.Net.Limit = 256 << 10
		stuck.Write(derp.AppendHeader(nil, derp.FrameWatchConns, 0))
		start := time.Now()
		for range 50 {
			r.Client()
		}
		if time.Since(start) != 0 {
			t.Errorf("50 logins took %v beside a stuck watcher", time.Since(start))
		}
		time.Sleep(meshWriteTimeout + time.Second)
		if n := r.registry.count().watchers; n != 0 {
			t.Errorf("%d watchers", n)
		}
	})
}

// A server that finds itself at the other end gives up for good; without a mesh key there is no
// mesh.
func TestMeshSelf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMeshWorld(t, "a")
		w.link("a", "a")
		time.Sleep(time.Minute)
		if n := rawpeer.Metric(t, w.srv["a"], `ginnel_relay_accepted_connections_total{transport="derp"}`); n != 1 {
			t.Errorf("%v connections to itself", n)
		}
		err := newTestServer(t, Config{}).Mesh("https://a.example", relay.ClientConfig{})
		if !errors.Is(err, errNoMeshKey) {
			t.Errorf("mesh without a key: %v", err)
		}
		if err := w.srv["a"].Mesh("a.example", relay.ClientConfig{}); err == nil {
			t.Error("mesh without a URL")
		}
	})
}

// A mesh peer with another key is an ordinary client: its link fails, and is tried again every 5 s.
func TestMeshWrongKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMeshWorld(t, "a")
		s := newTestServer(t, Config{MeshKey: derp.MeshKey{9}})
		if err := s.Mesh("http://a.example/derp", relay.ClientConfig{DialContext: w.net.DialContext}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(21 * time.Second)
		if n := rawpeer.Metric(t, w.srv["a"], `ginnel_relay_accepted_connections_total{transport="derp"}`); n != 5 {
			t.Errorf("%v attempts in 21 s", n)
		}
		start := time.Now()
		s.Close()
		if time.Since(start) != 0 {
			t.Errorf("closing took %v", time.Since(start))
		}
	})
}

// appendClosePeer makes the frame by which a mesh peer disconnects a client. The product never
// sends it.
func appendClosePeer(b []byte, peer key.NodePublic) []byte {
	return append(derp.AppendHeader(b, derp.FrameClosePeer, key.Size), peer[:]...)
}
