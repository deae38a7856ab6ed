package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/userstack"
)

// Two nodes that know each other's keys and relay reach each other at once, and directly once
// discovery starts.
func TestRelayThenDirect(t *testing.T) {
	a, b := two(t)
	b.serveHTTP(80, "from beta")
	if got, err := a.get("http://beta/"); got != "from beta" || err != nil {
		t.Fatalf("over the relay: %q, %v", got, err)
	}
	if p := a.path(b); p != PathRelay {
		t.Errorf("path %v, want relay", p)
	}
	a.mesh.introduce()
	if _, err := a.Ping(t.Context(), "beta"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a direct path", func() bool { return a.path(b) == PathDirect && b.path(a) == PathDirect })
	before := a.Status().Relays[0].TxPackets
	if got, err := a.get("http://100.64.0.2/"); got != "from beta" || err != nil {
		t.Errorf("directly: %q, %v", got, err)
	}
	if after := a.Status().Relays[0].TxPackets; after != before {
		t.Errorf("%d packets went through the relay on a direct path", after-before)
	}
	r, err := a.Ping(t.Context(), "100.64.0.2")
	if err != nil || r.Path != PathDirect || r.Peer != "beta" || r.RTTMS <= 0 {
		t.Errorf("ping: %+v, %v", r, err)
	}
}

// A transfer continues, byte for byte, while its path changes from relay to direct and back.
func TestTransferOverChangingPaths(t *testing.T) {
	a, b := two(t)
	ln, err := b.Listen(netip.MustParseAddrPort("100.64.0.2:9"))
	if err != nil {
		t.Fatal(err)
	}
	sums := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		h := sha256.New()
		n, err := io.Copy(h, c)
		sums <- fmt.Sprintf("%d %x %v", n, h.Sum(nil), err)
	}()
	c, err := a.DialContext(t.Context(), "tcp", "beta:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	chunk := make([]byte, 256<<10)
	h := sha256.New()
	total := 0
	send := func(n int) {
		for range n {
			for i := range chunk {
				chunk[i] = byte(total + i*7)
			}
			if _, err := c.Write(chunk); err != nil {
				t.Fatal(err)
			}
			h.Write(chunk)
			total += len(chunk)
		}
	}
	send(20)
	a.mesh.introduce()
	eventually(t, "a direct path", func() bool { send(1); return a.path(b) == PathDirect })
	send(20)
	for _, n := range a.mesh.nodes {
		if err := n.SetMap(n.netmap(false)); err != nil { // no discovery any more: back to the relay
			t.Fatal(err)
		}
	}
	send(20)
	if p := a.path(b); p != PathRelay {
		t.Errorf("path %v, want relay", p)
	}
	c.(interface{ CloseWrite() error }).CloseWrite()
	select {
	case got := <-sums:
		if want := fmt.Sprintf("%d %x <nil>", total, h.Sum(nil)); got != want {
			t.Errorf("received %s\nwant     %s", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Error("the transfer did not end")
	}
}

// Connections that are made while the node closes, and afterwards, fail with net.ErrClosed or an
// error of a closing node. Dialling a name with several addresses takes goroutines.
func TestDialBesideClose(t *testing.T) {
	for range 20 {
		m := newMesh(t)
		a, b := m.add("alpha"), m.add("beta")
		a.start(func(c *Config) {
			c.Map.Peers[0].Addresses = append(c.Map.Peers[0].Addresses, single(netip.MustParseAddr("100.64.9.9"))...)
		})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
					c, err := a.DialContext(ctx, "tcp", "beta:80")
					cancel()
					if err == nil {
						c.Close()
						t.Error("a connection to a node that does not run")
					}
					if errors.Is(err, net.ErrClosed) {
						return
					}
				}
			})
		}
		a.Close()
		wg.Wait()
		if _, err := a.DialContext(t.Context(), "tcp", "127.0.0.1:9"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a destination on the host, after Close: %v", err)
		}
		_ = b
	}
}

// A map with invalid relays is refused, and the map before stays in force.
func TestMapWithBadRelays(t *testing.T) {
	a, _ := two(t)
	for _, bad := range []relay.Map{
		{Regions: map[int]*relay.Region{1: nil}},
		{Regions: map[int]*relay.Region{1: {RegionID: 1, Nodes: []*relay.Node{nil}}}},
		{Regions: map[int]*relay.Region{1: {RegionID: 2}}},
	} {
		m := a.netmap(false)
		m.Relays = bad
		if err := a.SetMap(m); err == nil {
			t.Errorf("%v was taken", bad)
		}
		if _, err := New(Config{Key: key.NewNodePrivate(), Map: m}); err == nil {
			t.Errorf("a node was made with %v", bad)
		}
	}
	if got := a.Status().Self.Relay; got != "test" {
		t.Errorf("home relay %q", got)
	}
}

// A name that several nodes have resolves to none of them.
func TestAmbiguousNames(t *testing.T) {
	m := newMesh(t)
	a, b, c := m.add("alpha"), m.add("db"), m.add("db")
	for _, n := range m.nodes {
		n.startReady()
	}
	b.serveHTTP(80, "first")
	c.serveHTTP(80, "second")
	if _, err := a.get("http://db/"); !errors.Is(err, syscall.EHOSTUNREACH) ||
		!strings.Contains(err.Error(), "several nodes have this name") {
		t.Errorf("two nodes of one name: %v", err)
	}
	if got, err := a.get("http://100.64.0.3/"); got != "second" || err != nil {
		t.Errorf("by address: %q, %v", got, err)
	}
	if _, err := a.Ping(t.Context(), "db"); !errors.Is(err, ErrNoSuchPeer) {
		t.Errorf("ping: %v", err)
	}
}

// Errors wrap the errno of a socket, and say what to do.
func TestDialErrors(t *testing.T) {
	a, b := two(t, func(c *Config) { c.MeshOnly = true })
	b.serveHTTP(80, "")
	for _, c := range []struct {
		addr string
		want error
		text string
	}{
		{"beta:81", syscall.ECONNREFUSED, "peer beta: connection refused: nothing listens on port 81 there"},
		{"100.64.0.77:80", syscall.EHOSTUNREACH, "no peer has this address"},
		{"[fd7a:115c:a1e0::1]:80", syscall.EHOSTUNREACH, "no peer has this address"},
		{"127.0.0.1:80", fs.ErrPermission, "--mesh-only"},
		{"192.0.2.1:80", fs.ErrPermission, "--mesh-only"},
		{"100.64.0.1:80", syscall.ECONNREFUSED, "this node: nothing listens there"},
		{"beta", nil, "missing port"},
		{"beta:0", nil, "not a port"},
		{"beta:http", nil, "not a port"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		conn, err := a.DialContext(ctx, "tcp", c.addr)
		if err == nil {
			conn.Close()
			t.Errorf("%s: a connection", c.addr)
			continue
		}
		if c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %v with %q", c.addr, err, c.want, c.text)
		}
	}
	ln, err := b.Listen(netip.AddrPortFrom(netip.Addr{}, 82))
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := a.DialContext(ctx, "tcp", "beta:82"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port that is served no longer: %v, want a refusal", err)
	}
	c, err := a.DialContext(ctx, "udp", "beta:81")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("anybody there?"))
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a datagram to a port that is not served: %v, want a refusal", err)
	}
}

// Ports that are not served let nothing in, and served ports obey the map's filter.
func TestInbound(t *testing.T) {
	a, b := two(t)
	b.serveHTTP(80, "open")
	if _, err := a.get("http://beta/"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := a.plane.stack.Ping(ctx, b.addr); err == nil {
		t.Error("an ICMP echo was answered")
	}
	m := b.netmap(false)
	m.Filter = func(f userstack.Flow) bool { return f.Src.Addr() != a.addr }
	if err := b.SetMap(m); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := a.DialContext(ctx, "tcp", "beta:80"); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("a refused peer: %v, want silence", err)
	}
}

// Peers come and go with the map. Connections to those that stay are not disturbed.
func TestSetMap(t *testing.T) {
	m := newMesh(t)
	a, b, c := m.add("alpha"), m.add("beta"), m.add("gamma")
	for _, n := range m.nodes {
		n.startReady()
	}
	b.serveHTTP(80, "beta")
	c.serveHTTP(80, "gamma")
	conn, err := a.DialContext(t.Context(), "tcp", "beta:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := a.get("http://gamma/"); err != nil {
		t.Fatal(err)
	}
	without := a.netmap(false)
	without.Peers = without.Peers[:1]
	if err := a.SetMap(without); err != nil {
		t.Fatal(err)
	}
	if _, err := a.get("http://100.64.0.3/"); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("a peer that is gone: %v", err)
	}
	if s := a.Status(); len(s.Peers) != 1 {
		t.Errorf("%d peers, want 1", len(s.Peers))
	}
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	if got, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(got), "beta") {
		t.Errorf("a connection to a peer that stayed: %q, %v", got, err)
	}
	c.handshakeAges(a)
	if err := a.SetMap(a.netmap(false)); err != nil {
		t.Fatal(err)
	}
	if got, err := a.get("http://gamma/"); got != "gamma" || err != nil {
		t.Errorf("a peer that came back: %q, %v", got, err)
	}
	a.Close()
	if err := a.SetMap(without); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetMap after Close: %v", err)
	}
	if s := a.Status(); s.State != StateStopped {
		t.Errorf("state %v after Close", s.State)
	}
}

// A restarted peer is reached as soon as the map has its new disco key, not when WireGuard gives up
// the old session.
func TestPeerRestarts(t *testing.T) {
	a, b := two(t)
	a.mesh.introduce()
	for round := range 2 {
		b.serveHTTP(80, fmt.Sprint("round ", round))
		if got, err := a.get("http://beta/"); err != nil || got != fmt.Sprint("round ", round) {
			t.Fatalf("round %d: %q, %v", round, got, err)
		}
		a.handshakeAges(b)
		b.Close()
		b.startReady()
		a.mesh.introduce()
	}
}

// Run ends with its context, and Close ends Run.
func TestRun(t *testing.T) {
	a, b := two(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := b.Run(context.Background()); err != nil {
			t.Error(err)
		}
	})
	cancel()
	b.Close()
	wg.Wait()
	if _, err := a.DialContext(t.Context(), "tcp", "beta:80"); err == nil {
		t.Error("a closed node dialled")
	}
}

// Close under load leaves no goroutine and does not hang.
func TestCloseWhileBusy(t *testing.T) {
	a, b := two(t, func(c *Config) { c.Proxies = []net.Addr{tcp("127.0.0.1:0")} })
	b.serveHTTP(80, "x")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { a.DialContext(context.Background(), "tcp", "100.64.0.2:80") })
		wg.Go(func() { a.DialContext(context.Background(), "tcp", "beta:81") })
		wg.Go(func() { a.Ping(context.Background(), "beta") })
	}
	a.Close()
	wg.Wait()
}

func TestConfigNeedsNoKeyInLogs(t *testing.T) {
	k := key.NewNodePrivate()
	text, _ := k.MarshalText()
	if s := fmt.Sprintf("%+v %v %#v", Config{Key: k}, Config{Key: k}, Config{Key: k}); strings.Contains(s,
		strings.TrimPrefix(string(text), "privkey:")) {
		t.Error("a printed Config holds the private key")
	}
}
