package node

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"ginnel/key"
)

// crowd adds peers to a map with which no node ever speaks.
func crowd(m *NetworkMap, n int) {
	for i := range n {
		addr := netip.AddrFrom4([4]byte{100, 65, byte(i >> 8), byte(i)})
		m.Peers = append(m.Peers, Peer{
			Name: fmt.Sprint("peer", i), Key: key.NewNodePrivate().Public(), Addresses: single(addr),
			Disco: key.NewDiscoPrivate().Public(), Endpoints: []netip.AddrPort{netip.AddrPortFrom(loopback, 9)}, Region: region,
		})
	}
}

// Peers of the map are not peers of the WireGuard device until one side sends.
func TestDormantPeers(t *testing.T) {
	const peers = 1000
	a, b := two(t)
	b.serveHTTP(80, "beta")
	before := runtime.NumGoroutine()
	for _, n := range []*member{a, b} {
		m := n.netmap(true)
		crowd(&m, peers)
		if err := n.SetMap(m); err != nil {
			t.Fatal(err)
		}
	}
	if more := runtime.NumGoroutine() - before; more > 20 {
		t.Errorf("%d more goroutines for %d peers", more, peers)
	}
	if got, err := a.get("http://beta/"); got != "beta" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	for _, n := range []*member{a, b} {
		if got := len(n.plane.peers.sessions()); got != 1 {
			t.Errorf("WireGuard of %s knows %d peers, want the one it speaks with", n.name, got)
		}
	}
}

func BenchmarkSetMap(b *testing.B) {
	for _, peers := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint(peers), func(b *testing.B) {
			m := newMesh(b)
			a := m.add("alpha")
			a.start()
			netmap := a.netmap(true)
			crowd(&netmap, peers)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			if err := a.SetMap(netmap); err != nil {
				b.Fatal(err)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportAllocs()
			for b.Loop() {
				if err := a.SetMap(netmap); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(peers), "heap-B/peer")
		})
	}
}
