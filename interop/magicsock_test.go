package interop

import (
	"testing"

	"ginnel/key"
	relayserver "ginnel/relay/server"
)

// TestRealNodes proves that two nodes of theirs, which know nothing but our relay and our STUN
// service, talk through the relay while there is no UDP between them, find the direct path when
// there is, with the addresses that our STUN service told them, and fall back when it goes away,
// all on one TCP connection.
func TestRealNodes(t *testing.T) {
	t.Parallel()
	h := startOurRelay(t, relayserver.Config{})
	serveDistantSTUN(t, h)
	relays := h.derpMap(fastStart)
	a := newRealNode(t, "real a", key.NewNodePrivate(), meshAddrs[0])
	b := newRealNode(t, "real b", key.NewNodePrivate(), meshAddrs[1])
	for _, n := range []*realNode{a, b} {
		n.introduce(relays)
		n.waitReady()
	}
	cutUDP(t, a, b)
	introduceAll(relays, a, b)
	serveEcho(t, b)

	k := startTalk(t, a, b)
	k.more(patience, 1<<20)
	if ap, bp := a.path(b.public()), b.path(a.public()); ap.IsValid() || bp.IsValid() {
		t.Fatalf("direct paths %v and %v without UDP", ap, bp)
	}
	for _, way := range [][2]*realNode{{a, b}, {b, a}} {
		if got := way[0].status(way[1].public()).Relay; got != "test" {
			t.Errorf("%s sends through the relay %q, want test", way[0].name, got)
		}
	}
	restoreUDP(t, a, b)
	wantDirect(t, a, b)
	k.more(patience, 1<<20)
	cutUDP(t, a, b)
	wantRelayed(t, a, b)
	k.more(patience, 1<<20)
	k.finish()
}
