package proxy

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// When all associations are taken, a new one takes the place of the one that has been idle for the
// longest time.
func TestIdleAssociationGivesWay(t *testing.T) {
	s := &Server{ListenPacket: listenPacket, MaxAssociations: 2}
	addr := serve(t, s)
	idler, idle, fresh := dialChat(t, "tcp", addr), dialChat(t, "tcp", addr), dialChat(t, "tcp", addr)
	for _, c := range []*chat{idle, idler, fresh} {
		for _, a := range openAssociations(s) {
			a.last.Add(-int64(busyTime))
		}
		openUDP(c)
	}
	idle.wantGone()
	if got := len(openAssociations(s)); got != 2 {
		t.Errorf("%d associations, want 2", got)
	}
	idler.Close() // it stood until now
	eventually(t, "one association", func() bool { return s.Stats().OpenAssociations == 1 })
}

// A client cannot take the places of others: the one with most associations gives way.
func TestGreediestClientGivesWay(t *testing.T) {
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
		t.Errorf("the association of another client, or a later one, gave way; ok %v", ok)
	}
	for a := range as.open.Held() {
		a.last.Store(int64(time.Since(epoch)))
	}
	if evicted, ok := as.add(new(association), modest, 3); evicted != nil || ok {
		t.Error("a busy association gave way to a client that has more")
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

// When there are as many senders as may be, a new one takes the place of one that is idle.
func TestIdleSenderGivesWay(t *testing.T) {
	origin, pc := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
	s := &Server{MaxAssociations: 2}
	f := &packetForward{srv: s, pc: datagramsOf(pc), dial: dialUDP(origin.LocalAddr()), senders: make(map[netip.AddrPort]*sender)}
	s.setup.Do(s.prepare)
	defer s.Close()
	from := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.IPv6Loopback(), port) }
	first, second := f.sender(from(1)), f.sender(from(2))
	if got := f.sender(from(3)); got != nil {
		t.Error("a busy sender gave way")
	}
	first.last.Add(-int64(busyTime))
	third := f.sender(from(3))
	if third == nil || f.sender(from(2)) != second {
		t.Error("an idle sender did not give way, or another one did")
	}
	select {
	case <-first.closec:
	default:
		t.Error("the idle sender is not closed")
	}
}
