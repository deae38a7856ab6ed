package transport

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"ginnel/internal/disco"
	"ginnel/internal/simnet"
	"ginnel/key"
)

// What does not belong here is dropped and counted, and disturbs nothing.
func TestGarbage(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None))
		w.introduce(a, b)
		time.Sleep(time.Second)
		stranger, err := w.server.ListenUDP(0)
		if err != nil {
			t.Fatal(err)
		}
		to := netip.AddrPortFrom(a.host.Addrs()[0], a.c.LocalPort())
		evil := key.NewDiscoPrivate()
		shared, err := evil.Shared(a.c.DiscoKey())
		if err != nil {
			t.Fatal(err)
		}
		ping := disco.Seal(nil, evil.Public(), shared, &disco.Ping{TxID: disco.TxID{1}})
		for range 10000 {
			stranger.WriteToUDPAddrPort(ping, to)
			time.Sleep(time.Millisecond)
		}
		forged := slices.Clone(ping)
		bd := b.c.DiscoKey()
		copy(forged[6:], bd[:])
		stranger.WriteToUDPAddrPort(forged, to)
		stranger.WriteToUDPAddrPort(unhex(t, "00007a120a0b0c00"), to)
		stranger.WriteToUDPAddrPort([]byte{7}, to)
		time.Sleep(time.Second)
		d := a.c.Status().Dropped
		if d["disco_unknown"] != 10000 || d["disco_bad"] != 1 || d["peer_relay"] != 1 {
			t.Errorf("dropped %v", d)
		}
		if got := a.take(); len(got) != 1 { // the byte that some senders append, which WireGuard drops
			t.Errorf("WireGuard was given %+v", got)
		}
		if _, _, lost := b.stream(a, time.Second); lost > 0 {
			t.Errorf("%d packets lost", lost)
		}
	})
}

// A CallMeMaybe counts only if the peer's own relay brought it.
func TestForgedCallMeMaybe(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b, c := w.node("a", w.home(1, simnet.None)), w.node("b", w.home(2, simnet.None)),
			w.node("c", w.home(3, simnet.None))
		w.introduce(a, b, c)
		time.Sleep(time.Second)
		var shared *key.Shared
		b.c.call(func(l *loop) { shared = l.sharedKey(l.peers[a.key]) })
		call := disco.Seal(nil, b.c.DiscoKey(), shared,
			&disco.CallMeMaybe{Endpoints: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.66:66")}})
		before := w.net.Stats().NoRoute
		// sealed by b, brought as c's
		a.c.HandleRelayed(1, c.key, [][]byte{call})
		b.c.sock4[0].Send([][]byte{call}, netip.AddrPortFrom(a.host.Addrs()[0], a.c.LocalPort())) // over UDP
		time.Sleep(time.Second)
		if d := a.c.Status().Dropped; d["disco_bad"] != 2 {
			t.Errorf("dropped %v", d)
		}
		if n := w.net.Stats().NoRoute - before; n != 0 {
			t.Errorf("%d pings to the forged endpoint", n)
		}
		a.c.HandleRelayed(1, b.key, [][]byte{call})
		time.Sleep(time.Second)
		if n := w.net.Stats().NoRoute - before; n != 1 {
			t.Errorf("%d pings to the endpoint of a good call, want 1", n)
		}
	})
}
