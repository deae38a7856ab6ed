package interop

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math/rand/v2"
	"testing"

	"ginnel/key"
)

// bulk is one client's half of a transfer in both directions. A relay drops packets when its queues
// are full, so at most bulkWindow packets are unacknowledged, and the peer acknowledges each.
type bulk struct {
	p       *testClient
	peer    key.NodePublic
	packets int // each way
	size    int

	random      *rand.ChaCha8
	sent, acked int
	out         hash.Hash
	got         int
	in          hash.Hash
}

const (
	bulkWindow = 12
	// The type of a packet, its first byte.
	bulkData = 'D' // followed by a sequence number of 4 bytes and random content
	bulkAck  = 'A'
)

// exchange sends packets of random content between a and b in both directions and compares their
// hashes.
func exchange(t *testing.T, a, b *testClient, packets, size int) {
	t.Helper()
	x := newBulk(a, b.public, packets, size)
	y := newBulk(b, a.public, packets, size)
	donec := make(chan struct{})
	go func() {
		defer close(donec)
		y.run(t)
	}()
	x.run(t)
	<-donec
	if t.Failed() {
		t.FailNow()
	}
	if x.sum(x.out) != y.sum(y.in) || y.sum(y.out) != x.sum(x.in) {
		t.Errorf("%s and %s: %d packets of %d bytes each way arrived changed", a.name, b.name, packets, size)
	}
}

func newBulk(p *testClient, peer key.NodePublic, packets, size int) *bulk {
	var seed [32]byte
	copy(seed[:], p.public[:])
	return &bulk{p: p, peer: peer, packets: packets, size: size, random: rand.NewChaCha8(seed), out: sha256.New(),
		in: sha256.New()}
}

func (x *bulk) sum(h hash.Hash) string { return string(h.Sum(nil)) }

// run returns when all packets are sent, acknowledged and received. It reports errors with Errorf
// only, because it may run on another goroutine than the test's.
func (x *bulk) run(t *testing.T) {
	for x.acked < x.packets || x.got < x.packets {
		for x.sent < x.packets && x.sent-x.acked < bulkWindow {
			if err := x.p.send(x.peer, x.packet()); err != nil {
				t.Errorf("%s: sending packet %d: %v", x.p.name, x.sent, err)
				return
			}
		}
		e, ok := x.p.await()
		if !ok || e.kind == endEvent {
			t.Errorf("%s: stuck with %d of %d packets answered and %d received: %v", x.p.name, x.acked, x.packets, x.got, e.err)
			return
		}
		if e.kind == packetEvent && e.peer == x.peer && !x.take(t, e.data) {
			return
		}
	}
}

// packet returns the next data packet.
func (x *bulk) packet() []byte {
	b := make([]byte, x.size)
	x.random.Read(b)
	b[0] = bulkData
	binary.BigEndian.PutUint32(b[1:], uint32(x.sent))
	x.sent++
	x.out.Write(b)
	return b
}

// take handles a packet from the peer. It reports false after an error.
func (x *bulk) take(t *testing.T, b []byte) bool {
	if len(b) == 1 && b[0] == bulkAck {
		x.acked++
		return true
	}
	if n := binary.BigEndian.Uint32(b[1:]); int(n) != x.got {
		t.Errorf("%s: got packet %d, want %d", x.p.name, n, x.got)
		return false
	}
	x.got++
	x.in.Write(b)
	if err := x.p.send(x.peer, []byte{bulkAck}); err != nil {
		t.Errorf("%s: acknowledging: %v", x.p.name, err)
		return false
	}
	return true
}
