package proxy

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// Beyond maxLargeBatches a batch has one slot. Large ones are available again after others were
// freed.
func TestLargeBatchesAreBounded(t *testing.T) {
	var pool batchPool
	var taken []*datagramBatch
	for range maxLargeBatches + 3 {
		taken = append(taken, pool.get(batchSource{}))
	}
	for i, b := range taken {
		if want := i < maxLargeBatches; len(b.slots) > 1 != want {
			t.Errorf("batch %d has %d slots", i, len(b.slots))
		}
	}
	for _, b := range taken {
		b.free()
	}
	b := pool.get(batchSource{})
	if len(b.slots) == 1 {
		t.Error("got a small batch after all large ones were freed")
	}
	b.free()
	if b := pool.get(connSource{}); len(b.slots) > 1 || pool.large.Load() != 0 {
		t.Error("got a large batch for a source that receives one datagram at a time and may block")
	}
}

// A burst of datagrams of all sizes passes in order in both directions, through an association and
// through a forward.
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

// burst sends datagrams, as many at a time as every socket buffer has room for. It expects each to
// come back with a header of that length before it.
func burst(t *testing.T, client *net.UDPConn, send func(b []byte), header int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	got := make([]byte, bufferSize)
	for round := range 20 {
		var want [][]byte
		for n := range 30 {
			size := 8 + rnd.IntN(1200)
			if n%3 > 0 && len(want) > 0 {
				size = len(want[len(want)-1]) // datagrams of equal size may be batched
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
