package relay

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/internal/key"
)

// meshWorld is a region of servers a, b, ... reached at http://a.example and so on.
type meshWorld struct {
	t   *testing.T
	net *memNet
	srv map[string]*memRelay
}

func newMeshWorld(t *testing.T, names ...string) *meshWorld {
	w := &meshWorld{t: t, net: newMemNet(), srv: make(map[string]*memRelay)}
	for _, name := range names {
		w.start(name, key.NewNodePrivate())
	}
	return w
}

func (w *meshWorld) start(name string, k key.NodePrivate) *memRelay {
	s := newTestServer(w.t, ServerConfig{Key: k, MeshKey: testMeshKey})
	serveUntilEnd(w.t, s, w.net.listen(name+".example:80"), nil)
	w.srv[name] = &memRelay{s, w.t, &memNet{}}
	return w.srv[name]
}

// link makes a link from one server to another.
func (w *meshWorld) link(from, to string) {
	w.t.Helper()
	if err := w.srv[from].Mesh("http://"+to+".example/derp", ClientConfig{DialContext: w.net.DialContext}); err != nil {
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
func (w *meshWorld) client(server string, k key.NodePrivate) *rawPeer {
	w.t.Helper()
	return w.login(server, k, clientInfo{Version: 2})
}

func (w *meshWorld) login(server string, k key.NodePrivate, info clientInfo) *rawPeer {
	w.t.Helper()
	conn, err := w.net.DialContext(w.t.Context(), "tcp", server+".example:80")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	p := newRawPeer(w.t, conn, k)
	p.upgrade(w.srv[server].public, "")
	p.login(w.srv[server].public, info)
	synctest.Wait() // until the mesh knows
	return p
}

var testDisco = discoMagic + strings.Repeat("d", 60)

// Clients of different servers reach each other; they learn when the other one leaves the region,
// not when it moves.
func TestMesh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMeshWorld(t, "a", "b", "c")
		alice := w.client("a", key.NewNodePrivate()) // there before the links
		w.linkAll()
		bob := w.client("b", key.NewNodePrivate())
		alice.send(bob.public(), "hello")
		bob.wantPacket(alice.public(), "hello")
		bob.send(alice.public(), testDisco)
		alice.wantPacket(bob.public(), testDisco)
		large := strings.Repeat("L", MaxPacket)
		bob.send(alice.public(), large)
		alice.wantPacket(bob.public(), large)
		for i := range 30 { // a run
			bob.send(alice.public(), string(rune('a'+i)))
		}
		for i := range 30 {
			alice.wantPacket(bob.public(), string(rune('a'+i)))
		}
		a := w.srv["a"].Server
		a.wantMetric(t, `ginnel_relay_forwarded_packets_total{direction="out"}`, 1)
		a.wantMetric(t, `ginnel_relay_forwarded_packets_total{direction="in"}`, 32)
		a.wantMetric(t, `ginnel_relay_clients{where="remote"}`, 2) // bob, and a itself: its links are clients of b and c
		a.wantMetric(t, "ginnel_relay_watchers", 2)

		// It moves to c: nobody is told, packets follow.
		moved := w.client("c", bob.key)
		bob.conn.Close()
		synctest.Wait()
		alice.send(bob.public(), "moved")
		moved.wantPacket(alice.public(), "moved")
		alice.wantIdle()
		// To a, where local wins, although c still knows it.
		here := w.client("a", bob.key)
		alice.send(bob.public(), "here")
		here.wantPacket(alice.public(), "here")
		here.conn.Close()
		synctest.Wait()
		alice.send(bob.public(), "still at c")
		moved.wantPacket(alice.public(), "still at c")
		moved.conn.Close()
		alice.wantGone(bob.public(), goneDisconnected)
		alice.wantIdle()
	})
}

// A monitoring program has the mesh key but sends like any client: its packets cross the mesh too
// (5.6).
func TestMeshTrustedClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMeshWorld(t, "a", "b")
		w.linkAll()
		prober := w.login("a", key.NewNodePrivate(), clientInfo{Version: 2, IsProber: true, MeshKey: sealedMeshKey{testMeshKey}})
		other := w.login("b", key.NewNodePrivate(), clientInfo{Version: 2, IsProber: true, MeshKey: sealedMeshKey{testMeshKey}})
		prober.send(other.public(), "hello")
		other.wantPacket(prober.public(), "hello")
		other.send(prober.public(), "hello yourself")
		prober.wantPacket(other.public(), "hello yourself")
		other.conn.Close()
		prober.wantGone(other.public(), goneDisconnected)
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
		alice.send(k.Public(), "1")
		atB.wantPacket(alice.public(), "1")
		atB.conn.Close()
		synctest.Wait()
		alice.send(k.Public(), "2")
		atC.wantPacket(alice.public(), "2")
		atB = w.client("b", k)
		alice.send(k.Public(), "3")
		atC.wantPacket(alice.public(), "3")
		atB.wantIdle()
		atC.conn.Close()
		synctest.Wait()
		alice.send(k.Public(), "4")
		atB.wantPacket(alice.public(), "4")
	})
}

// A link that breaks takes its routes along, and comes back after 5 s.
func TestMeshLinkBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMeshWorld(t, "a", "b")
		w.linkAll()
		alice, bob := w.client("a", key.NewNodePrivate()), w.client("b", key.NewNodePrivate())
		bob.send(alice.public(), "x")
		alice.wantPacket(bob.public(), "x")
		k := w.srv["b"].cfg.Key
		w.srv["b"].Close()
		alice.wantGone(bob.public(), goneDisconnected) // "removing the last forwarder ... triggers PeerGone"
		alice.send(bob.public(), testDisco)
		alice.wantGone(bob.public(), goneNotHere)
		w.start("b", k)
		bob = w.client("b", bob.key)
		start := time.Now()
		time.Sleep(meshRetry)
		synctest.Wait()
		alice.send(bob.public(), "back")
		bob.wantPacket(alice.public(), "back")
		if d := time.Since(start); d != meshRetry {
			t.Errorf("back after %v", d)
		}
	})
}

// What a mesh peer may do and what it is told, spoken by hand (5.2, 5.5).
func TestMeshAcceptor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{MeshKey: testMeshKey})
		a := r.client()
		m := r.meshClient()
		m.write(appendHeader(nil, frameWatchConns, 0))
		seen := map[key.NodePublic]presentFlags{}
		for range 2 { // all that are connected, the watcher included, in no particular order
			p := m.wantPresent()
			seen[p.peer] = p.flags
		}
		if seen[a.public()] != presentRegular || seen[m.public()] != presentMesh {
			t.Errorf("announced %v", seen)
		}
		b := r.client()
		if p := m.wantPresent(); p.peer != b.public() || p.addr.Addr().String() != "198.51.100.1" {
			t.Errorf("announced %+v", p)
		}
		stranger := key.NewNodePrivate().Public()
		m.write(appendForwardPacket(nil, stranger, a.public(), []byte("for a")))
		m.write(appendForwardPacket(nil, stranger, a.public(), []byte("for a too")))
		m.write(appendForwardPacket(nil, b.public(), a.public(), []byte("from b")))
		m.write(appendForwardPacket(nil, a.public(), b.public(), []byte("for b")))
		a.wantPacket(stranger, "for a")
		a.wantPacket(stranger, "for a too")
		a.wantPacket(b.public(), "from b")
		b.wantPacket(a.public(), "for b")
		m.write(appendForwardPacket(nil, a.public(), stranger, []byte("data")))
		m.wantIdle()
		m.write(appendForwardPacket(nil, a.public(), stranger, []byte(testDisco)))
		m.wantGone(stranger, goneNotHere) // told to the mesh connection, not to the source
		a.wantIdle()
		r.wantMetric(t, `ginnel_relay_dropped_packets_total{kind="disco",reason="unknown_dest_on_fwd"}`, 1)
		r.wantMetric(t, `ginnel_relay_dropped_packets_total{kind="other",reason="unknown_dest_on_fwd"}`, 1)

		second := r.clientWithKey(b.key)
		m.wantPresent()
		m.write(appendClosePeer(nil, b.public())) // all connections of the key
		b.wantClosed()
		second.wantClosed()
		m.wantGone(b.public(), goneDisconnected)
		a.wantGone(b.public(), goneDisconnected)
		m.write(appendClosePeer(nil, stranger))
		m.ping()
	})
}

// However often a key comes and goes, a watcher that was not told yet has one thing to be told
// about it: the latest.
func TestMeshSlowWatcher(t *testing.T) {
	s := newTestServer(t, ServerConfig{})
	k := key.NewNodePrivate().Public()
	c := bareConn(s, key.NewNodePrivate().Public())
	w := s.registry.watch(c)
	if n := countFrames(s.registry.news(w, nil)); n != 1 {
		t.Errorf("%d news for a new watcher, want itself", n)
	}
	for i := range 100 {
		other := bareConn(s, k)
		if i < 99 {
			other.depart()
		}
	}
	b := s.registry.news(w, nil)
	if p, ok := parsePeerPresent(b[headerSize:]); countFrames(b) != 1 || !ok || p.peer != k {
		t.Errorf("news %x, want that %v is present", b, k)
	}
	s.registry.lookup(k).conns[0].depart()
	b = s.registry.news(w, nil)
	if peer, reason, ok := parsePeerGone(b[headerSize:]); countFrames(b) != 1 || !ok || peer != k || reason != goneDisconnected {
		t.Errorf("news %x, want that %v is gone", b, k)
	}
	if b := s.registry.news(w, nil); len(b) != 0 {
		t.Errorf("news %x without a change", b)
	}
	c.depart()
}

// A watcher that takes nothing for the time limit of mesh peers is cut; others are not held up.
func TestMeshStuckWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{MeshKey: testMeshKey})
		r.net.limit = 500
		stuck := r.meshClient()
		r.net.limit = 256 << 10
		stuck.write(appendHeader(nil, frameWatchConns, 0))
		start := time.Now()
		for range 50 {
			r.client()
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
		if n := w.srv["a"].metric(t, `ginnel_relay_accepted_connections_total{transport="derp"}`); n != 1 {
			t.Errorf("%v connections to itself", n)
		}
		if err := newTestServer(t, ServerConfig{}).Mesh("https://a.example", ClientConfig{}); !errors.Is(err, errNoMeshKey) {
			t.Errorf("mesh without a key: %v", err)
		}
		if err := w.srv["a"].Mesh("a.example", ClientConfig{}); err == nil {
			t.Error("mesh without a URL")
		}
	})
}

// A mesh peer with another key is an ordinary client: its link fails, and is tried again every 5 s.
func TestMeshWrongKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMeshWorld(t, "a")
		s := newTestServer(t, ServerConfig{MeshKey: MeshKey{9}})
		if err := s.Mesh("http://a.example/derp", ClientConfig{DialContext: w.net.DialContext}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(21 * time.Second)
		if n := w.srv["a"].metric(t, `ginnel_relay_accepted_connections_total{transport="derp"}`); n != 5 {
			t.Errorf("%v attempts in 21 s", n)
		}
		start := time.Now()
		s.Close()
		if time.Since(start) != 0 {
			t.Errorf("closing took %v", time.Since(start))
		}
	})
}
