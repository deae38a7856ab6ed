package transport

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

func openSocket(t testing.TB, network, addr string) socket {
	t.Helper()
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(context.Background(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSocket(pc.(*net.UDPConn), new(counters))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	return s
}

// collect reads n datagrams with small batches, so that some are kept between calls.
func collect(t testing.TB, s socket, n int) (got [][]byte, from netip.AddrPort) {
	t.Helper()
	bufs := make([][]byte, 5)
	for i := range bufs {
		bufs[i] = make([]byte, slotSize)
	}
	sizes, froms := make([]int, len(bufs)), make([]netip.AddrPort, len(bufs))
	stop := time.AfterFunc(5*time.Second, s.interrupt)
	defer stop.Stop()
	for len(got) < n {
		m, err := s.readBatch(bufs, sizes, froms)
		if err != nil {
			t.Fatalf("after %d of %d datagrams: %v", len(got), n, err)
		}
		for i := range m {
			got = append(got, bytes.Clone(bufs[i][:sizes[i]]))
			from = froms[i]
		}
	}
	return got, from
}

// Batches of every shape arrive in order and uncut, whatever the system joins on the way. Empty datagrams, which nobody
// means anything by, are left out.
func TestSocketBatches(t *testing.T) {
	shapes := map[string][]int{
		"one":              {1},
		"empty first":      {0, 5},
		"equal":            repeat(1452, 45),
		"more than a GSO":  repeat(100, 150),
		"short last":       append(repeat(1452, 10), 60),
		"short first":      append([]int{60}, repeat(1452, 10)...),
		"falling":          {1400, 1300, 1200, 1100, 1000},
		"rising":           {1000, 1100, 1200, 1300, 1400},
		"empty in between": {10, 10, 0, 10},
		"large":            {65000, 65000, 65000},
		"large and small":  {9000, 9000, 9000, 9000, 9000, 9000, 9000, 9000, 8999, 1},
	}
	for _, family := range [][2]string{{"udp4", "127.0.0.1:0"}, {"udp6", "[::1]:0"}} {
		a, b := openSocket(t, family[0], family[1]), openSocket(t, family[0], family[1])
		to := netip.AddrPortFrom(netip.MustParseAddrPort(family[1]).Addr(), b.localPort())
		for name, sizes := range shapes {
			r := rand.NewChaCha8([32]byte{1})
			batch := make([][]byte, len(sizes))
			var want [][]byte
			for i, n := range sizes {
				batch[i] = make([]byte, n)
				r.Read(batch[i])
				if n > 0 {
					want = append(want, batch[i])
				}
			}
			if err := a.writeBatch(batch, to); err != nil {
				t.Errorf("%s, %s: %v", family[0], name, err)
				continue
			}
			got, from := collect(t, b, len(want))
			if from != netip.AddrPortFrom(to.Addr(), a.localPort()) {
				t.Errorf("%s, %s: came from %v", family[0], name, from)
			}
			for i := range want {
				if !bytes.Equal(got[i], want[i]) {
					t.Errorf("%s, %s: datagram %d has %d bytes, want %d, or differs", family[0], name, i, len(got[i]), len(want[i]))
				}
			}
		}
	}
}

func repeat(size, n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = size
	}
	return s
}

func TestSocketErrors(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0")
	if err := s.writeBatch([][]byte{{1}}, netip.MustParseAddrPort("[::1]:9")); err == nil {
		t.Error("an IPv4 socket sent to an IPv6 address")
	}
	// A socket on loopback cannot reach the world: said, not dropped.
	if err := s.writeBatch([][]byte{{1}}, netip.MustParseAddrPort("192.0.2.1:9")); err == nil {
		t.Error("sending where nothing leads succeeded")
	}
	errc := make(chan error)
	go func() {
		_, err := s.readBatch([][]byte{make([]byte, 100)}, make([]int, 1), make([]netip.AddrPort, 1))
		errc <- err
	}()
	s.interrupt()
	if err := <-errc; err == nil {
		t.Error("an interrupted read returned nothing")
	}
	s.resume()
	go func() {
		_, err := s.readBatch([][]byte{make([]byte, 100)}, make([]int, 1), make([]netip.AddrPort, 1))
		errc <- err
	}()
	s.close()
	if err := <-errc; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of a closed socket: %v, want net.ErrClosed", err)
	}
}

func TestRunLength(t *testing.T) {
	b := func(sizes ...int) (out [][]byte) {
		for _, n := range sizes {
			out = append(out, make([]byte, n))
		}
		return out
	}
	for _, c := range []struct {
		bufs  [][]byte
		limit int
		want  int
	}{
		{b(100), maxUDPPayload, 1},
		{b(100, 100, 100), maxUDPPayload, 3},
		{b(100, 100, 50, 100), maxUDPPayload, 3},
		{b(100, 101), maxUDPPayload, 1},
		{b(100, 0), maxUDPPayload, 1},
		{b(0, 0), maxUDPPayload, 1},
		{b(100, 100), 0, 1},
		{b(1500, 1500), 1400, 1},
		{b(repeat(100, 100)...), maxUDPPayload, maxSegments},
		{b(repeat(1452, 64)...), maxUDPPayload, 45},
		{b(40000, 30000), maxUDPPayload, 1},
	} {
		if got := runLength(c.bufs, c.limit); got != c.want {
			t.Errorf("runLength of %d buffers, the first of %d, limit %d: %d, want %d", len(c.bufs), len(c.bufs[0]), c.limit, got, c.want)
		}
	}
}

// A device that does not do GSO is found out once; nothing is lost meanwhile.
func TestGSOFallback(t *testing.T) {
	a, b := openSocket(t, "udp4", "127.0.0.1:0"), openSocket(t, "udp4", "127.0.0.1:0")
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.localPort())
	bs := a.(*batchSocket)
	tx := newTransmitter(bs)
	batch := [][]byte{make([]byte, 100), make([]byte, 100), make([]byte, 100)}
	tx.load(batch, to)
	if n := tx.build(); n != 1 {
		t.Fatalf("%d messages, want 1", n)
	}
	if !tx.recover(syscall.EIO) || bs.gsoLimit.Load() != 0 {
		t.Errorf("after EIO the limit is %d, want 0", bs.gsoLimit.Load())
	}
	if n := tx.build(); n != 3 {
		t.Errorf("%d messages without GSO, want 3", n)
	}
	bs.gsoLimit.Store(maxUDPPayload)
	tx.build()
	if !tx.recover(syscall.EMSGSIZE) || bs.gsoLimit.Load() != 99 || tx.build() != 3 {
		t.Errorf("after EMSGSIZE the limit is %d, want 99, and this batch goes out plain", bs.gsoLimit.Load())
	}
	if err := a.writeBatch(batch, to); err != nil {
		t.Fatal(err)
	}
	collect(t, b, 3)
}

// BenchmarkSocketBatch sends batches of 45 full-size datagrams over loopback and reads them.
func BenchmarkSocketBatch(b *testing.B) {
	tx, rx := openSocket(b, "udp4", "127.0.0.1:0"), openSocket(b, "udp4", "127.0.0.1:0")
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), rx.localPort())
	batch := make([][]byte, 45)
	bufs := make([][]byte, batchSize)
	for i := range batch {
		batch[i] = make([]byte, 1452)
	}
	for i := range bufs {
		bufs[i] = make([]byte, slotSize)
	}
	sizes, from := make([]int, len(bufs)), make([]netip.AddrPort, len(bufs))
	b.SetBytes(45 * 1452)
	b.ReportAllocs()
	for b.Loop() {
		if err := tx.writeBatch(batch, to); err != nil {
			b.Fatal(err)
		}
		for n := 0; n < len(batch); {
			m, err := rx.readBatch(bufs, sizes, from)
			if err != nil {
				b.Fatal(err)
			}
			n += m
		}
	}
}

// The data path allocates nothing for a packet.
func TestSocketAllocations(t *testing.T) {
	tx, rx := openSocket(t, "udp4", "127.0.0.1:0"), openSocket(t, "udp4", "127.0.0.1:0")
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), rx.localPort())
	batch := [][]byte{make([]byte, 1000), make([]byte, 1000)}
	bufs := [][]byte{make([]byte, slotSize), make([]byte, slotSize)}
	sizes, from := make([]int, 2), make([]netip.AddrPort, 2)
	allocs := testing.AllocsPerRun(200, func() {
		if err := tx.writeBatch(batch, to); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < 2; {
			m, err := rx.readBatch(bufs, sizes, from)
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
	})
	if allocs >= 1 && !raceEnabled { // the race detector makes pools forget
		t.Errorf("%v allocations for a batch, want 0", allocs)
	}
}

// A transmitter in the pool keeps no buffer of a batch alive, however that was sent.
func TestTransmitterKeepsNothing(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0").(*batchSocket)
	tx := newTransmitter(s)
	tx.load([][]byte{{1}, {2}, {3}, {4}}, netip.MustParseAddrPort("127.0.0.1:9"))
	tx.build()
	tx.sent = 3 // the system took a part
	tx.build()
	tx.unload()
	for i, v := range tx.iovs[:cap(tx.iovs)] {
		if v.Base != nil {
			t.Errorf("entry %d still points at a buffer", i)
		}
	}
	if tx.bufs != nil {
		t.Error("the batch is still there")
	}
}
