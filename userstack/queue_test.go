package userstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// Connections to many addresses use several queues, which are read concurrently. All data arrive,
// and each connection leaves by the queue of its address.
func TestSeveralQueues(t *testing.T) {
	p := &pair{mtu: DefaultMTU, queues: 4}
	p.start(t)
	var prefixes []netip.Prefix
	for i := range 8 {
		prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 7, byte(i)}), 32))
	}
	if err := p.b.SetAddrs(prefixes); err != nil {
		t.Fatal(err)
	}
	data := randomBytes(1<<20, 1)
	var wg sync.WaitGroup
	for _, prefix := range prefixes {
		c, s := p.connect(t, prefix.Addr())
		for _, dir := range [][2]net.Conn{{c, s}, {s, c}} {
			wg.Go(func() {
				dir[0].Write(data)
				dir[0].(*Conn).CloseWrite()
			})
			wg.Go(func() {
				if got, err := io.ReadAll(dir[1]); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%v: got %d bytes, want the %d sent bytes (%v)", prefix, len(got), len(data), err)
				}
			})
		}
		d := p.a.Device()
		if q := c.(*Conn).queue; q != d.queues[d.queueOf(prefix.Addr().AsSlice())] {
			t.Errorf("%v: the flow is in another queue than its packets", prefix)
		}
	}
	wg.Wait()
	used := make(map[int]bool)
	for _, prefix := range prefixes {
		used[p.a.Device().queueOf(prefix.Addr().AsSlice())] = true
	}
	if len(used) < 3 {
		t.Errorf("8 consecutive addresses use %d of 4 queues", len(used))
	}
}

func TestQueuesOutOfRange(t *testing.T) {
	for _, n := range []int{-1, 3, 2 * maxQueues} {
		if s, err := New(Config{Queues: n}); err == nil {
			t.Errorf("New accepted %d queues", n)
			s.Close()
		}
	}
}
