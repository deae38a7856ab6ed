package userstack

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// echo echoes every datagram until the socket is closed.
func echo(c *PacketConn) {
	buf := make([]byte, MaxDatagram)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		c.WriteToUDPAddrPort(buf[:n], from)
	}
}

func (p *pair) serveEcho(t testing.TB, port uint16) {
	t.Helper()
	c, err := p.b.ListenPacket(netip.AddrPortFrom(netip.Addr{}, port))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); echo(c) }()
	t.Cleanup(func() { c.Close(); <-done })
}

// Datagrams of all sizes arrive completely; the largest are fragmented.
func TestDatagrams(t *testing.T) {
	p := newPair(t, 0)
	p.serveEcho(t, 7)
	for _, to := range []netip.Addr{addrB4, addrB6} {
		c, err := p.a.DialContext(t.Context(), "udp", netip.AddrPortFrom(to, 7).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, n := range []int{0, 1, 1200, 1421, 9000, MaxDatagram} {
			want := randomBytes(n, uint64(n))
			if _, err := c.Write(want); err != nil {
				t.Fatal(err)
			}
			c.SetReadDeadline(time.Now().Add(2 * time.Second))
			got := make([]byte, MaxDatagram)
			m, err := c.Read(got)
			if err != nil || !bytes.Equal(got[:m], want) {
				t.Errorf("%d bytes to %v: got %d back, %v", n, to, m, err)
			}
		}
		if _, err := c.Write(make([]byte, MaxDatagram+1)); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("oversized datagram: %v, want EMSGSIZE", err)
		}
	}
}

// A client socket receives from those it has sent to, although the filter accepts nothing. A socket
// on a given port then receives nothing.
func TestUnsolicitedDatagrams(t *testing.T) {
	p := newPair(t, 0)
	p.serveEcho(t, 7)
	client, err := p.a.ListenPacket(netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	service, err := p.a.ListenPacket(netip.AddrPortFrom(addrA4, 5353))
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	intruder, err := p.b.ListenPacket(netip.AddrPortFrom(addrB4, 666))
	if err != nil {
		t.Fatal(err)
	}
	defer intruder.Close()

	port := client.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	for _, to := range []uint16{port, 5353} {
		if _, err := intruder.WriteToUDPAddrPort([]byte("unasked"), netip.AddrPortFrom(addrA4, to)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.WriteToUDPAddrPort([]byte("asked"), netip.AddrPortFrom(addrB4, 7)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	client.SetReadDeadline(time.Now().Add(2 * time.Second))
	n, from, err := client.ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != "asked" || from != netip.AddrPortFrom(addrB4, 7) {
		t.Errorf("got %q from %v, %v", buf[:n], from, err)
	}
	service.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, from, err := service.ReadFromUDPAddrPort(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a filtered datagram %q from %v arrived, %v", buf[:n], from, err)
	}
	p.a.SetFilter(func(f Flow) bool { return f.Protocol == UDP && f.Dst.Port() == 5353 && f.Src.Addr() == addrB4 })
	if _, err := intruder.WriteToUDPAddrPort([]byte("allowed"), netip.AddrPortFrom(addrA4, 5353)); err != nil {
		t.Fatal(err)
	}
	service.SetReadDeadline(time.Now().Add(2 * time.Second))
	if n, _, err := service.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != "allowed" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

func TestDestinationsAreBounded(t *testing.T) {
	s := newDestinations()
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1)
	}
	for i := range 10 * maxDestinations {
		s.add(at(i))
	}
	if n := len(s.now) + len(s.old); n > 2*maxDestinations {
		t.Errorf("%d destinations are kept, want at most %d", n, 2*maxDestinations)
	}
	if !s.has(at(10*maxDestinations - 1)) {
		t.Error("the last peer is forgotten")
	}
	if s.has(at(0)) {
		t.Error("the first peer is still known")
	}
}

func TestPing(t *testing.T) {
	p := newPair(t, 0)
	for _, to := range []netip.Addr{addrB4, addrB6, addrA4} {
		if rtt, err := p.a.Ping(t.Context(), to); err != nil || rtt <= 0 {
			t.Errorf("ping %v: %v, %v", to, rtt, err)
		}
	}
	// b may not ping a, whose filter accepts nothing.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.b.Ping(ctx, addrA4); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("ping of a host that accepts nothing: %v, want ETIMEDOUT", err)
	}
	p.a.SetFilter(func(f Flow) bool { return f.Protocol == ICMPv4 })
	if _, err := p.b.Ping(t.Context(), addrA4); err != nil {
		t.Errorf("ping of a host that accepts it: %v", err)
	}
}

// A SYN that the filter does not accept is dropped silently and counted.
func TestFilterDropsConnections(t *testing.T) {
	p := newPair(t, 0)
	ln, err := p.a.Listen(netip.AddrPortFrom(addrA4, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.b.DialContext(ctx, "tcp", "100.64.0.1:80"); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("got %v, want ETIMEDOUT", err)
	}
	if p.a.dev.filtered.Load() == 0 {
		t.Error("nothing was counted as filtered")
	}
	var asked []Flow
	p.a.SetFilter(func(f Flow) bool { asked = append(asked, f); return true })
	c, err := p.b.DialContext(t.Context(), "tcp", "100.64.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dst := netip.MustParseAddrPort("100.64.0.1:80")
	if len(asked) != 1 || asked[0].Protocol != TCP || asked[0].Dst != dst || asked[0].Src.Addr() != addrB4 {
		t.Errorf("the filter was called for %+v", asked)
	}
}

func TestSetAddrs(t *testing.T) {
	p := newPair(t, 0)
	more := netip.MustParseAddr("100.64.0.3")
	all := []netip.Prefix{netip.MustParsePrefix("100.64.0.2/10"), netip.MustParsePrefix("100.64.0.3/32")}
	if err := p.b.SetAddrs(all); err != nil {
		t.Fatal(err)
	}
	if _, err := p.a.Ping(t.Context(), more); err != nil {
		t.Errorf("ping of an added address: %v", err)
	}
	if got := p.b.Addrs(); len(got) != 2 || got[0] != addrB4 || got[1] != more {
		t.Errorf("Addrs = %v", got)
	}
	if err := p.b.SetAddrs(all[1:]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.a.Ping(ctx, addrB4); err == nil {
		t.Error("a removed address still answers")
	}
}

// Datagrams that are written between Cork and Uncork leave together at Uncork. Only the test reads
// from the queue.
func TestCork(t *testing.T) {
	s := newStack(t, Config{}, addrA4)
	var told atomic.Int32
	s.Device().Queues()[0].Notify(func() { told.Add(1) })
	c, err := s.ListenPacket(netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const many = 10
	before, waiting := told.Load(), s.dev.queues[0].packets.n
	c.Cork()
	for range many {
		if _, err := c.WriteToUDPAddrPort(make([]byte, 100), netip.AddrPortFrom(addrB4, 7)); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.dev.queues[0].packets.n - waiting; n != many || told.Load() != before {
		t.Errorf("corked: %d datagrams wait after %d notifications, want %d after 0", n, told.Load()-before, many)
	}
	c.Uncork()
	if n := told.Load() - before; n != 1 {
		t.Errorf("uncorked: the reader was notified %d times, want 1", n)
	}
}

// ReadBatch returns the datagrams that have arrived.
func TestBatches(t *testing.T) {
	p := newPair(t, 0)
	s, err := p.b.ListenPacket(netip.AddrPortFrom(netip.Addr{}, 7))
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.a.ListenPacket(netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	to := netip.AddrPortFrom(addrB4, 7)
	bufs, sizes, from := make([][]byte, 16), make([]int, 16), make([]netip.AddrPort, 16)
	for i := range bufs {
		bufs[i] = make([]byte, 2000)
	}
	if n, err := s.ReadBatch(bufs, sizes, from); n != 0 || err != nil {
		t.Errorf("before any datagram: got %d, %v", n, err)
	}
	const many = 10
	c.Cork()
	for i := range many {
		if _, err := c.WriteToUDPAddrPort(bytes.Repeat([]byte{byte(i)}, 100*i), to); err != nil {
			t.Fatal(err)
		}
	}
	c.Uncork()
	for got := 0; got < many; {
		s.SetReadDeadline(time.Now().Add(2 * time.Second))
		if err := s.AwaitRead(); err != nil {
			t.Fatalf("after %d datagrams: %v", got, err)
		}
		n, err := s.ReadBatch(bufs, sizes, from)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			want := bytes.Repeat([]byte{byte(got)}, 100*got)
			if !bytes.Equal(bufs[i][:sizes[i]], want) || from[i].Addr() != addrA4 {
				t.Errorf("datagram %d: %d bytes from %v, want %d", got, sizes[i], from[i], len(want))
			}
			got++
		}
	}
	errc := make(chan error)
	go func() { errc <- s.AwaitRead() }()
	s.Close()
	if err := <-errc; !errors.Is(err, net.ErrClosed) {
		t.Errorf("AwaitRead of a closed socket: %v, want net.ErrClosed", err)
	}
	if _, err := s.ReadBatch(bufs, sizes, from); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadBatch of a closed socket: %v, want net.ErrClosed", err)
	}
}

// A writer is not blocked by a Cork without Uncork.
func TestForgottenCork(t *testing.T) {
	p := newPair(t, 0)
	p.serveEcho(t, 7)
	forgetful, err := p.a.ListenPacket(netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer forgetful.Close()
	forgetful.Cork()
	done := make(chan error, 1)
	go func() {
		for range 2 * maxQueued / 1000 {
			if _, err := forgetful.WriteToUDPAddrPort(make([]byte, 1000), netip.AddrPortFrom(addrB4, 7)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the writer is still blocked")
	}
}
