package proxy

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// Those who move datagrams beyond a number have slabs of one slot, and large ones again when others
// are done.
func TestSlabsAreBounded(t *testing.T) {
	var all slabs
	var taken []*slab
	for range maxSlabs + 3 {
		taken = append(taken, all.take(batchInlet{}))
	}
	for i, s := range taken {
		if want := i < maxSlabs; len(s.bufs) > 1 != want {
			t.Errorf("slab %d has %d slots", i, len(s.bufs))
		}
	}
	for _, s := range taken {
		s.free()
	}
	s := all.take(batchInlet{})
	if len(s.bufs) == 1 {
		t.Error("after all were given back there is no large one")
	}
	s.free()
	if s := all.take(connInlet{}); len(s.bufs) > 1 || all.large.Load() != 0 {
		t.Error("who receives one at a time, and may wait for it, has a large one")
	}
}

// A burst of datagrams of all sizes passes in order, there and back, by an association and by a
// forward.
func TestDatagramBursts(t *testing.T) {
	peer := listenUDP(t, "127.0.0.1")
	go func() {
		b := make([]byte, bufferSize)
		for {
			n, from, err := peer.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			peer.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	t.Run("association", func(t *testing.T) {
		relay := openUDP(dialChat(t, "tcp", serve(t, &Server{ListenPacket: listenPacket})))
		client, header := listenUDP(t, "127.0.0.1"), datagramTo(addrOf(peer), "")
		burst(t, client, func(b []byte) { client.WriteToUDPAddrPort(append(bytes.Clone(header), b...), relay) }, len(header))
	})
	t.Run("forward", func(t *testing.T) {
		pc, s := listenUDP(t, "127.0.0.1"), new(Server)
		running(t, s, func() error { return s.ForwardPackets(pc, "peer", dialUDP(peer.LocalAddr())) })
		client := listenUDP(t, "127.0.0.1")
		burst(t, client, func(b []byte) { client.WriteToUDPAddrPort(b, addrOf(pc)) }, 0)
	})
}

// burst sends many datagrams, as many at a time as every socket has room for, and wants them back
// behind a header.
func burst(t *testing.T, client *net.UDPConn, send func(b []byte), header int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	got := make([]byte, bufferSize)
	for round := range 20 {
		var want [][]byte
		for n := range 30 {
			size := 8 + rnd.IntN(1200)
			if n%3 > 0 && len(want) > 0 {
				size = len(want[len(want)-1]) // equal ones go together
			}
			b := make([]byte, size)
			binary.BigEndian.PutUint64(b, uint64(round*1000+n))
			want = append(want, b)
			send(b)
		}
		for i, w := range want {
			client.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, err := client.Read(got)
			if err != nil {
				t.Fatalf("round %d, datagram %d: %v", round, i, err)
			}
			if !bytes.Equal(got[min(header, n):n], w) {
				t.Fatalf("round %d, datagram %d: %d bytes, want %d, or differs", round, i, n-header, len(w))
			}
		}
	}
}
