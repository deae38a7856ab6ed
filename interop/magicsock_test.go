package interop

import (
	"testing"

	"ginnel/key"
	relayserver "ginnel/relay/server"
)

// TestTheirNodes proves that two of their nodes work with only our relay and our STUN service.
// Without UDP between them they use the relay. With UDP they find the direct path, by the addresses
// that our STUN service returned. When UDP is cut again they fall back, all on one TCP connection.
func TestTheirNodes(t *testing.T) {
	t.Parallel()
	h := startOurRelay(t, relayserver.Config{})
	serveDelayedSTUN(t, h)
	relays := h.derpMap(fastStart)
	a := newTheirNode(t, "real a", key.NewNodePrivate(), meshAddrs[0])
	b := newTheirNode(t, "real b", key.NewNodePrivate(), meshAddrs[1])
	for _, n := range []*theirNode{a, b} {
		n.setPeers(relays)
		n.waitReady()
	}
	cutUDP(t, a, b)
	exchangePeers(relays, a, b)
	serveEcho(t, b)

	k := startEchoStream(t, a, b)
	k.awaitBytes(waitLimit, 1<<20)
	if ap, bp := a.path(b.public()), b.path(a.public()); ap.IsValid() || bp.IsValid() {
		t.Fatalf("direct paths %v and %v without UDP", ap, bp)
	}
	for _, way := range [][2]*theirNode{{a, b}, {b, a}} {
		if got := way[0].status(way[1].public()).Relay; got != "test" {
			t.Errorf("%s sends through the relay %q, want test", way[0].name, got)
		}
	}
	restoreUDP(t, a, b)
	wantDirect(t, a, b)
	k.awaitBytes(waitLimit, 1<<20)
	cutUDP(t, a, b)
	wantRelayed(t, a, b)
	k.awaitBytes(waitLimit, 1<<20)
	k.finish()
}
