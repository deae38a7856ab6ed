package sys

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// testSocket is a Socket of the system.
type testSocket struct {
	*UDPSocket
	c *net.UDPConn
}

// listen opens a socket that batches know nothing of.
func listenUDP(t testing.TB, network, addr string) *net.UDPConn {
	t.Helper()
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(context.Background(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc.(*net.UDPConn)
}

// connect opens one that is connected.
func connectUDP(t testing.TB, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func open(t testing.TB, network, addr string) *testSocket {
	t.Helper()
	return batching(t, listenUDP(t, network, addr))
}

func batching(t testing.TB, c *net.UDPConn) *testSocket {
	t.Helper()
	s, err := NewUDPSocket(c)
	if err != nil {
		t.Fatal(err)
	}
	return &testSocket{s, c}
}

// oneByOne moves each datagram by itself, as where there are no batches.
func oneByOne(c *net.UDPConn) *testSocket { return &testSocket{&UDPSocket{c: c}, c} }

func (s *testSocket) addr() netip.AddrPort { return s.c.LocalAddr().(*net.UDPAddr).AddrPort() }

// collect receives n datagrams.
func (s *testSocket) collect(t testing.TB, n int) (got [][]byte, from netip.AddrPort) {
	t.Helper()
	s.c.SetReadDeadline(time.Now().Add(5 * time.Second))
	batch := NewBatch(3)
	for len(got) < n {
		if err := s.Receive(batch); err != nil {
			t.Fatalf("after %d of %d datagrams: %v", len(got), n, err)
		}
		for row, addr, ok := batch.Next(nil); ok; row, addr, ok = batch.Next(nil) {
			from = addr
			for _, b := range row {
				got = append(got, bytes.Clone(b))
			}
		}
	}
	return got, from
}

// Sockets that are connected send without an address, and those without batches speak with those
// that have them.
func TestConnected(t *testing.T) {
	server, old := open(t, "udp4", "127.0.0.1:0"), oneByOne(listenUDP(t, "udp4", "127.0.0.1:0"))
	batch := [][]byte{[]byte("one"), []byte("two"), []byte("six"), {}, []byte("seven")}
	for _, pair := range [][2]*testSocket{
		{batching(t, connectUDP(t, server.addr())), server},
		{oneByOne(connectUDP(t, server.addr())), server},
		{batching(t, connectUDP(t, old.addr())), old},
	} {
		if sent, err := pair[0].Send(batch, netip.AddrPort{}); sent != countOf(batch) || err != nil {
			t.Fatalf("%+v sent, %v", sent, err)
		}
		got, from := pair[1].collect(t, len(batch))
		for i := range batch {
			if !bytes.Equal(got[i], batch[i]) {
				t.Errorf("datagram %d: got %q, want %q", i, got[i], batch[i])
			}
		}
		if sent, err := pair[1].Send(batch, from); sent != countOf(batch) || err != nil {
			t.Fatalf("back: %+v sent, %v", sent, err)
		}
		if got, _ := pair[0].collect(t, len(batch)); string(got[4]) != "seven" {
			t.Errorf("back: got %q", got)
		}
	}
}

func TestErrors(t *testing.T) {
	s := open(t, "udp4", "127.0.0.1:0")
	for _, s := range []*testSocket{s, oneByOne(listenUDP(t, "udp4", "127.0.0.1:0"))} {
		if _, err := s.Send([][]byte{{1}}, netip.MustParseAddrPort("[::1]:9")); err == nil {
			t.Error("an IPv4 socket sent to an IPv6 address")
		}
		// A socket on loopback cannot reach the world: said, not dropped.
		if _, err := s.Send([][]byte{{1}}, netip.MustParseAddrPort("192.0.2.1:9")); err == nil {
			t.Error("sending where nothing leads succeeded")
		}
		if sent, err := s.Send([][]byte{make([]byte, 65508), {1}}, s.addr()); sent != (Sent{1, 1}) || err != nil {
			t.Errorf("a datagram that is too long, and one that is not: %+v sent, %v, want the other and no error", sent, err)
		}
		s.c.SetReadDeadline(time.Unix(1, 0))
		b := NewBatch(1)
		if err := s.Receive(b); err == nil {
			t.Error("a receive past its deadline returned nothing")
		}
		if _, _, ok := b.Next(nil); ok {
			t.Error("there is a datagram nevertheless")
		}
		s.c.SetReadDeadline(time.Time{})
	}
	errc := make(chan error)
	go func() { errc <- s.Receive(NewBatch(1)) }()
	s.c.Close()
	if err := <-errc; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a receive by a closed socket: %v, want net.ErrClosed", err)
	}
	if _, err := s.Send([][]byte{{1}}, s.addr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a send by a closed socket: %v, want net.ErrClosed", err)
	}
}

// The data path allocates nothing for a datagram.
func TestUDPDoesNotAllocate(t *testing.T) {
	tx, rx := open(t, "udp4", "127.0.0.1:0"), open(t, "udp4", "127.0.0.1:0")
	batch, to, in := [][]byte{make([]byte, 1000), make([]byte, 1000)}, rx.addr(), NewBatch(4)
	row := make([][]byte, 0, 4)
	allocs := testing.AllocsPerRun(200, func() {
		if _, err := tx.Send(batch, to); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(batch); {
			if err := rx.Receive(in); err != nil {
				t.Fatal(err)
			}
			for got, _, ok := in.Next(row); ok; got, _, ok = in.Next(row) {
				n += len(got)
			}
		}
	})
	if allocs >= 1 && !raceEnabled { // the race detector makes pools forget
		t.Errorf("%v allocations for a batch, want 0", allocs)
	}
}

// BenchmarkBatch sends batches of 45 full-size datagrams over loopback and receives them.
func BenchmarkBatch(b *testing.B) {
	tx, rx := open(b, "udp4", "127.0.0.1:0"), open(b, "udp4", "127.0.0.1:0")
	batch, to, in := make([][]byte, 45), rx.addr(), NewBatch(4)
	for i := range batch {
		batch[i] = make([]byte, 1452)
	}
	row := make([][]byte, 0, 64)
	b.SetBytes(45 * 1452)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tx.Send(batch, to); err != nil {
			b.Fatal(err)
		}
		for n := 0; n < len(batch); {
			if err := rx.Receive(in); err != nil {
				b.Fatal(err)
			}
			for got, _, ok := in.Next(row); ok; got, _, ok = in.Next(row) {
				n += len(got)
			}
		}
	}
}
