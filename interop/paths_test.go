package interop

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"ginnel/internal/key"
	"ginnel/node"
	"ginnel/relay"
)

// Networks that are less convenient than that of TestNodes, or busier.

// TestCallMeMaybe proves that the direct path is found although neither map names an address of the other side: their
// node, which then asks for nothing, is told by ours through the relay.
func TestCallMeMaybe(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startTheirRelay(t, relay.ServerConfig{})), node.Config{})
	our, their := entry(p.our), entry(p.their)
	our.Endpoints, their.Endpoints = nil, nil
	p.our.introduce(p.relays, their)
	p.their.introduce(p.relays, our)
	serveEcho(t, p.our)
	k := startTalk(t, p.their, p.our)
	wantDirect(t, p.our, p.their)
	k.more(patience, 1<<18)
	k.finish()
}

// TestRelayOnly proves that a node of ours without UDP is reached through the relay for as long as it takes, and that
// theirs does not believe in any other path.
func TestRelayOnly(t *testing.T) {
	t.Parallel()
	p := newPair(t, withSTUN(t, startTheirRelay(t, relay.ServerConfig{})), node.Config{RelayOnly: true})
	p.introduce()
	serveEcho(t, p.our)
	k := startTalk(t, p.their, p.our)
	k.more(upgradeLimit, 12<<20) // which takes longer than two rounds of discovery
	wantPings(t, p, node.PathRelay)
	if ap, bp := p.our.path(p.their.public()), p.their.path(p.our.public()); ap.IsValid() || bp.IsValid() {
		t.Errorf("direct paths %v and %v without UDP", ap, bp)
	}
	k.finish()
}

// TestTwoRegions proves that nodes whose homes are different relays, one of each make, reach each other without UDP: each
// sends to the home of the other.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	first, second := startOurRelay(t, relay.ServerConfig{}), startTheirRelay(t, relay.ServerConfig{})
	serveDistantSTUN(t, second)
	relays := twoRegions(first, second)
	relays.Regions[1].NoMeasureNoHome = true // so that theirs makes the second its home
	p := newPair(t, relays, node.Config{})
	eventually(t, "their node has the second relay for a home", func() bool { return homes(t, second) == 1 })
	cutUDP(t, p.our, p.their)
	our, their := entry(p.our), entry(p.their)
	our.Region, their.Region = 1, 2
	p.our.introduce(p.relays, their)
	p.their.introduce(p.relays, our)
	serveEcho(t, p.their)
	k := startTalk(t, p.our, p.their)
	k.more(patience, 1<<20)
	k.finish()
}

// TestRelayRestart proves that a connection through a relay of either make outlives a restart of the relay: both nodes
// come back by themselves.
func TestRelayRestart(t *testing.T) {
	eachRelay(t, relay.ServerConfig{}, func(t *testing.T, h *relayHost) {
		serveDistantSTUN(t, h)
		p := newPair(t, h.derpMap(fastStart), node.Config{})
		cutUDP(t, p.our, p.their)
		p.introduce()
		serveEcho(t, p.their)
		k := startTalk(t, p.our, p.their)
		k.more(patience, 1<<20)
		h.stop()
		if _, ok := h.server.(ourRelay); ok {
			h.serve(t, newOurRelay(t, relay.ServerConfig{}))
		} else {
			h.serve(t, newTheirRelay(t, relay.ServerConfig{}))
		}
		k.more(upgradeLimit, 1<<20)
		k.finish()
	})
}

// TestBulkDirect proves that a direct path carries as much as it can, in both directions at once, when both sides send
// and receive in batches that the kernel joins and splits: the bytes arrive unchanged.
func TestBulkDirect(t *testing.T) {
	const size = 32 << 20
	p := newPair(t, withSTUN(t, startOurRelay(t, relay.ServerConfig{})), node.Config{})
	p.introduce()
	serveEcho(t, p.their)
	k := startTalk(t, p.our, p.their)
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

// sendRandom sends n random bytes and the end, and returns their hash.
func sendRandom(t *testing.T, conn net.Conn, n int64) [sha256.Size]byte {
	h := sha256.New()
	random := rand.NewChaCha8([32]byte(key.NewNodePrivate().Raw()))
	if _, err := io.CopyN(io.MultiWriter(conn, h), random, n); err != nil {
		t.Errorf("sending: %v", err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Errorf("ending: %v", err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
