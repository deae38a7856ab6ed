package interop

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"ginnel/key"
	"ginnel/node"
	relayserver "ginnel/relay/server"
)

// The networks of these tests are harder than that of TestNodes, or carry more traffic.

// TestCallMeMaybe proves that the direct path is found although neither network map has an endpoint
// of the other side. Our node sends CallMeMaybe through the relay, because their node without
// endpoints does not.
func TestCallMeMaybe(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startTheirRelay(t, relayserver.Config{})), node.Config{})
	our, their := entry(p.our), entry(p.their)
	our.Endpoints, their.Endpoints = nil, nil
	p.our.setPeers(p.relays, their)
	p.their.setPeers(p.relays, our)
	serveEcho(t, p.our)
	k := startEchoStream(t, p.their, p.our)
	wantDirect(t, p.our, p.their)
	k.awaitBytes(waitLimit, 1<<18)
	k.finish()
}

// TestRelayOnly proves that our node without UDP stays reachable through the relay, and that their
// node does not assume another path.
func TestRelayOnly(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startTheirRelay(t, relayserver.Config{})), node.Config{RelayOnly: true})
	p.exchangePeers()
	serveEcho(t, p.our)
	k := startEchoStream(t, p.their, p.our)
	k.awaitBytes(upgradeLimit, 12<<20) // longer than two rounds of path discovery
	wantPings(t, p, node.PathRelay)
	if ap, bp := p.our.path(p.their.public()), p.their.path(p.our.public()); ap.IsValid() || bp.IsValid() {
		t.Errorf("direct paths %v and %v without UDP", ap, bp)
	}
	k.finish()
}

// TestTwoRegions proves that nodes with home relays in two regions, one of each make, reach each
// other without UDP. Each sends to the other's home relay.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	first, second := startOurRelay(t, relayserver.Config{}), startTheirRelay(t, relayserver.Config{})
	serveDelayedSTUN(t, second)
	relays := twoRegions(first, second)
	relays.Regions[1].NoMeasureNoHome = true // so that their node chooses the second as its home
	p := newPair(t, relays, node.Config{})
	eventually(t, "their node has the second relay for a home", func() bool { return homes(t, second) == 1 })
	cutUDP(t, p.our, p.their)
	our, their := entry(p.our), entry(p.their)
	our.Region, their.Region = 1, 2
	p.our.setPeers(p.relays, their)
	p.their.setPeers(p.relays, our)
	serveEcho(t, p.their)
	k := startEchoStream(t, p.our, p.their)
	k.awaitBytes(waitLimit, 1<<20)
	k.finish()
}

// TestRelayRestart proves that a connection through a relay of either make survives a restart of
// the relay, because both nodes reconnect.
func TestRelayRestart(t *testing.T) {
	eachRelay(t, relayserver.Config{}, func(t *testing.T, h *relayHost) {
		serveDelayedSTUN(t, h)
		p := newPair(t, h.derpMap(fastStart), node.Config{})
		cutUDP(t, p.our, p.their)
		p.exchangePeers()
		serveEcho(t, p.their)
		k := startEchoStream(t, p.our, p.their)
		k.awaitBytes(waitLimit, 1<<20)
		h.stop()
		if _, ok := h.server.(ourRelay); ok {
			h.serve(t, newOurRelay(t, relayserver.Config{}))
		} else {
			h.serve(t, newTheirRelay(t, relayserver.Config{}))
		}
		k.awaitBytes(upgradeLimit, 1<<20)
		k.finish()
	})
}

// TestIPv6Path proves that the direct path is found over IPv6 when IPv4 packets are dropped.
func TestIPv6Path(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{})
	cutIPv4(t, p.our)
	cutIPv4(t, p.their)
	our, their := entry(p.our), entry(p.their)
	our.Endpoints = append(our.Endpoints, netip.AddrPortFrom(loopbacks[1], p.our.udpPort()))
	their.Endpoints = append(their.Endpoints, netip.AddrPortFrom(loopbacks[1], p.their.udpPort()))
	p.our.setPeers(p.relays, their)
	p.their.setPeers(p.relays, our)
	serveEcho(t, p.their)
	k := startEchoStream(t, p.our, p.their)
	wantDirect(t, p.our, p.their)
	if ap, bp := p.our.path(p.their.public()), p.their.path(p.our.public()); !ap.Addr().Is6() || !bp.Addr().Is6() {
		t.Errorf("direct paths %v and %v, want IPv6", ap, bp)
	}
	k.awaitBytes(waitLimit, 1<<20)
	k.finish()
}

// TestIPv6Inside proves that connections inside the mesh work over its IPv6 addresses, in both
// directions.
func TestIPv6Inside(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{})
	p.exchangePeers()
	our, their := address6(p.our.addr), address6(p.their.addr)
	ln, err := p.our.Listen(netip.AddrPortFrom(our, echoPort))
	if err != nil {
		t.Fatal(err)
	}
	theirLn, err := p.their.stack.ListenTCP("tcp6", netip.AddrPortFrom(their, echoPort).String())
	if err != nil {
		t.Fatal(err)
	}
	echoOver(t, ln, func() (net.Conn, error) { return p.their.dialTCP(t.Context(), netip.AddrPortFrom(our, echoPort)) })
	echoOver(t, theirLn, func() (net.Conn, error) {
		return p.our.dialTCP(t.Context(), netip.AddrPortFrom(their, echoPort))
	})
}

// echoOver dials ln and sends a line in each direction.
func echoOver(t *testing.T, ln net.Listener, dial func() (net.Conn, error)) {
	t.Helper()
	defer ln.Close()
	donec := make(chan struct{})
	go func() {
		defer close(donec)
		c, err := ln.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.CopyN(c, c, 6)
	}()
	c, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(waitLimit))
	buf := make([]byte, 6)
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello\n" {
		t.Errorf("got %q, %v, want hello", buf, err)
	}
	<-donec
}

// TestIdle proves that both nodes give up an unused path, after 45 s, and that traffic passes at
// once when it resumes, and directly soon after.
func TestIdle(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startTheirRelay(t, relayserver.Config{})), node.Config{})
	p.exchangePeers()
	serveEcho(t, p.their)
	// A TCP connection would still send packets after its end.
	c, err := p.our.dialUDP(t.Context(), netip.AddrPortFrom(p.their.address(), echoPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := askEcho(c, []byte("before")); err != nil {
		t.Fatal(err)
	}
	wantDirect(t, p.our, p.their)
	eventuallyWithin(t, 80*time.Second, "both are idle", func() bool {
		return !p.our.path(p.their.public()).IsValid() && !p.their.status(p.our.public()).Active
	})
	start := time.Now()
	if err := askEcho(c, []byte("after")); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the first answer took %v", took)
	}
	wantDirect(t, p.our, p.their)
}

// TestBulkDirect proves that data arrive unchanged over a direct path at full speed in both
// directions, when both sides send and receive batches with GSO and GRO.
func TestBulkDirect(t *testing.T) {
	const size = 32 << 20
	p := newPair(t, withSTUN(t, startOurRelay(t, relayserver.Config{})), node.Config{})
	p.exchangePeers()
	serveEcho(t, p.their)
	k := startEchoStream(t, p.our, p.their)
	wantDirect(t, p.our, p.their)
	k.finish()
	conn, err := p.our.dialTCP(t.Context(), netip.AddrPortFrom(p.their.address(), echoPort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	start := time.Now()
	sum := make(chan [sha256.Size]byte, 1)
	go func() { sum <- sendRandom(t, conn, size) }()
	h := sha256.New()
	n, err := io.Copy(h, conn)
	if want := <-sum; err != nil || n != size || [sha256.Size]byte(h.Sum(nil)) != want {
		t.Fatalf("%d of %d bytes came back, unchanged: %v, error: %v", n, size, [sha256.Size]byte(h.Sum(nil)) == want, err)
	}
	t.Logf("%d bytes each way in %v", size, time.Since(start))
}

// sendRandom sends n random bytes, closes the sending side, and returns the hash of the bytes.
func sendRandom(t *testing.T, conn net.Conn, n int64) [sha256.Size]byte {
	h := sha256.New()
	random := rand.NewChaCha8([32]byte(key.NewNodePrivate().Raw()))
	if _, err := io.CopyN(io.MultiWriter(conn, h), random, n); err != nil {
		t.Errorf("sending: %v", err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Errorf("closing the sending side: %v", err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
