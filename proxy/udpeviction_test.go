package proxy

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// At the bound, a new association evicts the one that has been idle for longest.
func TestIdleAssociationIsEvicted(t *testing.T) {
	s := &Server{ListenPacket: listenPacket, MaxAssociations: 2}
	addr := serve(t, s)
	newer, older, fresh := dialChat(t, "tcp", addr), dialChat(t, "tcp", addr), dialChat(t, "tcp", addr)
	for _, c := range []*chat{older, newer, fresh} {
		for _, a := range openAssociations(s) {
			a.last.Add(-int64(busyTime))
		}
		openUDP(c)
	}
	older.wantGone()
	if got := len(openAssociations(s)); got != 2 {
		t.Errorf("%d associations, want 2", got)
	}
	newer.Close() // it was not evicted
	eventually(t, "one association", func() bool { return s.Stats().OpenAssociations == 1 })
}

// The evicted association belongs to the client that has the most, so that one client cannot take
// the associations of others.
func TestGreediestClientIsEvicted(t *testing.T) {
	var as associations
	greedy, modest := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	old := time.Since(epoch) - time.Minute
	add := func(client netip.Addr, age time.Duration) *association {
		a := new(association)
		a.last.Store(int64(old - age))
		if evicted, ok := as.add(a, client, 3); evicted != nil || !ok {
			t.Fatalf("evicted %v, %v", evicted, ok)
		}
		return a
	}
	add(modest, time.Hour)
	add(greedy, 0)
	want := add(greedy, time.Minute)
	if evicted, ok := as.add(new(association), modest, 3); evicted != want || !ok {
		t.Errorf("the association of another client, or a later one, was evicted; ok %v", ok)
	}
	for a := range as.open.Held() {
		a.last.Store(int64(time.Since(epoch)))
	}
	if evicted, ok := as.add(new(association), modest, 3); evicted != nil || ok {
		t.Error("a busy association was evicted for a client that has more")
	}
	if evicted, ok := as.add(new(association), netip.MustParseAddr("127.0.0.4"), 3); evicted == nil || !ok {
		t.Error("busy associations of one client kept out another that has none")
	}
}

func openAssociations(s *Server) (all []*association) {
	s.udp.associations.mu.Lock()
	defer s.udp.associations.mu.Unlock()
	return slices.Collect(s.udp.associations.open.Held())
}

// At the bound, a new session evicts one that is idle.
func TestIdleSessionIsEvicted(t *testing.T) {
	origin, pc := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
	s := &Server{MaxAssociations: 2}
	s.setup.Do(s.prepare)
	f := newUDPForward(s, pc, "origin", dialUDP(origin.LocalAddr()))
	defer s.Close()
	from := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.IPv6Loopback(), port) }
	first, second := f.session(from(1)), f.session(from(2))
	if got := f.session(from(3)); got != nil {
		t.Error("a busy session was evicted")
	}
	first.last.Add(-int64(busyTime))
	third := f.session(from(3))
	if third == nil || f.session(from(2)) != second {
		t.Error("the idle session was not evicted, or another one was")
	}
	if first.ctx.Err() == nil {
		t.Error("the evicted session is not closed")
	}
}
