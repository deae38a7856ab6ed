package userstack

import (
	"io"
	"net/netip"
	"sync"
	"testing"
)

// Nothing is allocated for a packet on its way through two stacks, in either direction.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	p := newBlindPair(t)
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
		for range 200 { // pools and windows fill
			exchange()
		}
		// A timer or a pool that was emptied may cost one now and then; one for each exchange would show.
		if n := testing.AllocsPerRun(500, exchange); n >= 1 {
			t.Errorf("%v allocations for an exchange of %d bytes, want 0", n, size)
		}
	}
	a.Close()
	wg.Wait()
}

// What gVisor allocates for one datagram on its way from a conn to a conn. All of it is inside
// gVisor: for sending, the options of the write and a reader around the payload; for receiving, the
// queued packet and three times a view of its network header. A socket that is not connected looks
// up a route for each datagram, which is two more.
const (
	datagramAllocations = 6
	routeAllocations    = 2
)

// Nothing of ours is allocated for a datagram, by a connected socket or by one that is not.
func TestDatagramAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	p := newBlindPair(t)
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
	// An exchange is two datagrams, of which the echo sends the second by a socket that is not
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
		for range 200 { // pools fill
			run()
		}
		if n := testing.AllocsPerRun(500, run); int(n) > c.want { // AllocsPerRun rounds down: a rare one does not show
			t.Errorf("%s: %v allocations for an exchange, want %d", c.name, n, c.want)
		}
	}
}
