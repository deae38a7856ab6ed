//go:build linux && !ginnel_stdnet

package sys

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
)

// Batches of every shape arrive in order and uncut, whatever the system joins on the way.
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
		a, b := open(t, family[0], family[1]), open(t, family[0], family[1])
		for name, sizes := range shapes {
			r := rand.NewChaCha8([32]byte{1})
			batch := make([][]byte, len(sizes))
			for i, n := range sizes {
				batch[i] = make([]byte, n)
				r.Read(batch[i])
			}
			if sent, err := a.Send(batch, b.addr()); sent != countOf(batch) || err != nil {
				t.Errorf("%s, %s: %+v sent, %v", family[0], name, sent, err)
				continue
			}
			got, from := b.collect(t, len(batch))
			if from != a.addr() {
				t.Errorf("%s, %s: came from %v", family[0], name, from)
			}
			for i := range batch {
				if !bytes.Equal(got[i], batch[i]) {
					t.Errorf("%s, %s: datagram %d has %d bytes, want %d, or differs", family[0], name, i, len(got[i]), len(batch[i]))
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
			t.Errorf("runLength of %d buffers, the first of %d, limit %d: %d, want %d", len(c.bufs), len(c.bufs[0]), c.limit,
				got, c.want)
		}
	}
}

// A device that does not do GSO, or a route with a small MTU, is found out once; nothing is lost
// meanwhile, and datagrams to other destinations are joined as before.
func TestGSOFallback(t *testing.T) {
	a, b := open(t, "udp4", "127.0.0.1:0"), open(t, "udp4", "127.0.0.1:0")
	bs := a.os
	tx := newTransmitter(bs)
	batch := [][]byte{make([]byte, 100), make([]byte, 100), make([]byte, 100)}
	tx.load(batch, b.addr())
	if n := tx.build(); n != 1 {
		t.Fatalf("%d messages, want 1", n)
	}
	to, other := b.addr().Addr(), netip.MustParseAddr("192.0.2.1")
	if !tx.recover(syscall.EIO) || bs.gso.of(to) != 0 || bs.gso.of(other) != maxUDPPayload {
		t.Errorf("after EIO the limit is %d, and %d elsewhere, want 0 and %d", bs.gso.of(to), bs.gso.of(other), maxUDPPayload)
	}
	if n := tx.build(); n != 3 {
		t.Errorf("%d messages without GSO, want 3", n)
	}
	bs.gso.narrow.Store(nil)
	tx.build()
	if !tx.recover(syscall.EMSGSIZE) || bs.gso.of(to) != 99 || bs.gso.of(other) != maxUDPPayload || tx.build() != 3 {
		t.Errorf("after EMSGSIZE the limit is %d, and %d elsewhere, want 99 and %d, and this batch goes out plain",
			bs.gso.of(to), bs.gso.of(other), maxUDPPayload)
	}
	if _, err := a.Send(batch, b.addr()); err != nil {
		t.Fatal(err)
	}
	b.collect(t, 3)
}

// A transmitter in the pool keeps no buffer of a batch alive, however that was sent.
func TestTransmitterKeepsNothing(t *testing.T) {
	tx := newTransmitter(open(t, "udp4", "127.0.0.1:0").os)
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

// Where nobody listens, the answers to earlier datagrams do not take the place of later ones.
func TestRefused(t *testing.T) {
	gone := open(t, "udp4", "127.0.0.1:0")
	client := batching(t, connectUDP(t, gone.addr()))
	gone.c.Close()
	for i := range 10 {
		if sent, err := client.Send([][]byte{{1}, {2, 2}, {3}}, netip.AddrPort{}); sent != (Sent{3, 4}) || err != nil {
			t.Fatalf("batch %d: %+v sent, %v", i, sent, err)
		}
	}
	again := batching(t, listenUDP(t, "udp4", gone.addr().String()))
	if _, err := client.Send([][]byte{[]byte("first")}, netip.AddrPort{}); err != nil {
		t.Fatal(err)
	}
	if got, _ := again.collect(t, 1); string(got[0]) != "first" {
		t.Errorf("got %q", got[0])
	}
}
