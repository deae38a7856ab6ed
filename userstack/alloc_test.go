package userstack

import (
	"io"
	"net/netip"
	"sync"
	"testing"
)

// A packet on its way through two stacks allocates nothing, in either direction.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	p := newUncheckedPair(t)
	a, z := p.connect(t, addrB4)
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(z, z) })
	for _, size := range []int{64, 61560} {
		buf := make([]byte, size)
		exchange := func() {
			if _, err := a.Write(buf); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(a, buf); err != nil {
				t.Fatal(err)
			}
		}
		for range 200 { // fill pools and windows
			exchange()
		}
		// A timer or an emptied pool may allocate now and then; an allocation per exchange would fail.
		if n := testing.AllocsPerRun(500, exchange); n >= 1 {
			t.Errorf("%v allocations for an exchange of %d bytes, want 0", n, size)
		}
	}
	a.Close()
	wg.Wait()
}

// The number of allocations of gVisor for one datagram. Sending allocates the write options and a
// reader around the payload; receiving allocates the queued packet and three views of its network
// header. A socket that is not connected also looks up a route, which is two more.
const (
	datagramAllocations = 6
	routeAllocations    = 2
)

// This package allocates nothing for a datagram, neither in a connected socket nor in another one.
func TestDatagramAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	p := newUncheckedPair(t)
	p.serveEcho(t, 7)
	to := netip.AddrPortFrom(addrB4, 7)
	dialled, err := p.a.DialContext(t.Context(), "udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	bound, err := p.a.ListenPacket(netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer bound.Close()
	// An exchange is two datagrams. The echo server sends the second one by a socket that is not
	// connected.
	exchange := 2*datagramAllocations + routeAllocations
	buf := make([]byte, 1200)
	for _, c := range []struct {
		name string
		conn *PacketConn
		want int
	}{
		{"connected", dialled.(*PacketConn), exchange},
		{"not connected", bound, exchange + routeAllocations},
	} {
		run := func() {
			if _, err := c.conn.WriteToUDPAddrPort(buf, to); err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.conn.ReadFromUDPAddrPort(buf); err != nil {
				t.Fatal(err)
			}
		}
		for range 200 { // fill pools
			run()
		}
		if n := testing.AllocsPerRun(500, run); int(n) > c.want { // AllocsPerRun rounds down
			t.Errorf("%s: %v allocations for an exchange, want %d", c.name, n, c.want)
		}
	}
}
