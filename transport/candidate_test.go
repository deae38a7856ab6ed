package transport

import (
	"net/netip"
	"testing"
	"time"

	"ginnel/internal/disco"
)

// "What a ping does not do: it does not make the address the best address, does not extend trust,
// and does not trigger a ping back. The candidate is pinged in the next discovery round."
func TestPathPinged(t *testing.T) {
	pt := newPathTest(t)
	id := disco.TxID{1}
	pinged := func(addr netip.AddrPort, id disco.TxID, want bool) {
		t.Helper()
		e, first := pt.p.pinged(pt.now, addr, id)
		pt.out.merge(e)
		if first != want {
			t.Errorf("ping from %v: first %v, want %v", addr, first, want)
		}
	}
	pinged(other, id, true)
	pinged(other, id, false)
	pinged(public, id, true)
	pinged(other, disco.TxID{2}, true)
	pt.wantRoute(noAddr, true)
	pt.wantPings()
	pt.send()
	pt.wantPings(other, public)
	pinged(private, id, true) // we have traffic and no path, so this one is asked at once
	pt.wantPings(private)
	pinged(private, disco.TxID{3}, true)
	pt.wantPings()
}

// "A candidate that was learned only from pings lives 45 s after the last ping from it."
func TestPathLearnedCandidateExpires(t *testing.T) {
	pt := newPathTest(t)
	pt.p.pinged(pt.now, other, disco.TxID{1})
	pt.now = pt.now.Add(sessionTimeout - time.Second)
	pt.p.sweep(pt.now)
	if len(pt.p.candidates) != 1 {
		t.Error("gone after 44 s")
	}
	pt.now = pt.now.Add(time.Second)
	pt.p.sweep(pt.now)
	if len(pt.p.candidates) != 0 {
		t.Error("still there after 45 s")
	}
}

// "Candidates from earlier CMMs that are not in L are removed, even when the same address is also
// in the network map; if the best address is among them it is cleared. Each address in L except
// IPv6 link-local becomes a candidate. The 5 s ping limit of all candidates of the peer is reset
// and a discovery round is run at once, without sending a CMM back."
func TestPathCalled(t *testing.T) {
	pt := newPathTest(t, public)
	linkLocal := netip.MustParseAddrPort("[fe80::1]:41641")
	pt.direct() // which called a moment ago
	pt.out = pt.p.calledMaybe(pt.now, []netip.AddrPort{private, linkLocal, public})
	pt.wantPings(public, private)
	pt.wantCall(false)
	pt.now = pt.now.Add(candidateInterval)
	pt.out = pt.p.calledMaybe(pt.now, []netip.AddrPort{private})
	pt.wantPings(private)
	pt.wantCall(true)
	pt.wantRoute(noAddr, true)
	pt.out = pt.p.calledMaybe(pt.now, nil)
	pt.wantPings()
	if len(pt.p.candidates) != 0 {
		t.Errorf("candidates %v after an empty list", pt.p.candidates)
	}
}

// "send error EHOSTUNREACH: cleared"
func TestPathSendFailed(t *testing.T) {
	pt := newPathTest(t, public, private)
	pt.send()
	pt.pong(pt.wantPings(public, private), public)
	pt.p.sendFailed(private)
	pt.wantRoute(public, false)
	pt.p.sendFailed(public)
	pt.wantRoute(noAddr, true)
	if len(pt.p.candidates) != 2 {
		t.Error("the candidate is gone")
	}
}

// "An implementation should have" a hard cap on candidates, and everything else is bounded as well.
func TestPathIsBounded(t *testing.T) {
	pt := newPathTest(t)
	many := make([]netip.AddrPort, 5000)
	for i := range many {
		many[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 1)
		pt.p.pinged(pt.now, many[i], disco.TxID{byte(i), byte(i >> 8)})
	}
	pt.p.setEndpoints(pt.now, many)
	pt.p.calledMaybe(pt.now, many)
	if n := len(pt.p.candidates); n > maxCandidates {
		t.Errorf("%d candidates, want at most %d", n, maxCandidates)
	}
	for range 100 {
		pt.p.calledMaybe(pt.now, many)
		pt.p.relayPing(pt.now)
	}
	if n := len(pt.p.pings); n > maxPings {
		t.Errorf("%d outstanding pings, want at most %d", n, maxPings)
	}
	for _, bad := range []string{"0.0.0.0:1", "203.0.113.1:0", "224.0.0.1:5", "[ff02::1]:5", "[fe80::1]:5"} {
		if usable(netip.MustParseAddrPort(bad)) {
			t.Errorf("%s is taken for a peer's address", bad)
		}
	}
}
