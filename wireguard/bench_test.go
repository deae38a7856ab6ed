package wireguard

import (
	"testing"
	"time"

	"ginnel/internal/key"
)

// benchSession returns both ends of a session.
func benchSession(tb testing.TB) (a, b *host, out, in *keypair) {
	a, b = two(tb)
	a.say(b, "x")
	for len(b.tun.take()) == 0 {
		time.Sleep(time.Millisecond)
	}
	p, _ := a.peer(b.key.Public())
	q, _ := b.peer(a.key.Public())
	return a, b, p.current.Load(), q.current.Load()
}

const benchPacket = 1400

// Encrypting a packet of 1,400 bytes.
func BenchmarkSeal(b *testing.B) {
	_, _, k, _ := benchSession(b)
	buf := make([]byte, headerLen+1420+tagLen)
	var n nonce
	b.SetBytes(benchPacket)
	b.ReportAllocs()
	for b.Loop() {
		counter, _ := k.reserve(1)
		k.seal(buf, benchPacket, 1420, counter, &n)
	}
}

// Encrypting and decrypting one.
func BenchmarkSealOpen(b *testing.B) {
	_, _, out, in := benchSession(b)
	buf := make([]byte, headerLen+1420+tagLen)
	var n nonce
	b.SetBytes(benchPacket)
	b.ReportAllocs()
	for b.Loop() {
		counter, _ := out.reserve(1)
		if _, ok := in.open(out.seal(buf, benchPacket, 1420, counter, &n), &n); !ok {
			b.Fatal("a message that does not open")
		}
	}
}

// Both sides of a handshake.
func BenchmarkHandshake(b *testing.B) {
	x, y := twoSides([key.Size]byte{})
	b.ReportAllocs()
	for b.Loop() {
		i, m := x.begin(b, 1)
		_, response := y.answer(b, m, 2)
		if _, err := i.complete(response, 1); err != nil {
			b.Fatal(err)
		}
	}
}

// A batch from the Tun to the bind.
func BenchmarkSend(b *testing.B) {
	x, y, _, _ := benchSession(b)
	x.port.filter(func([]byte, *port) bool { return false })
	s := &sender{d: x.Device}
	bufs, sizes := make([][]byte, 46), make([]int, 46)
	for i := range bufs {
		bufs[i] = make([]byte, headerLen+1420+tagLen)
	}
	one := packet(x.addr, y.addr, string(make([]byte, benchPacket-20)))
	b.SetBytes(int64(len(bufs) * benchPacket))
	b.ReportAllocs()
	for b.Loop() {
		for i := range bufs { // sealing has spoilt them
			sizes[i] = copy(bufs[i][headerLen:], one)
		}
		s.route(bufs, sizes)
	}
}

// Nothing is allocated for a packet, in either direction.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	a, b, out, in := benchSession(t)
	a.port.filter(func([]byte, *port) bool { return false })
	s := &sender{d: a.Device}
	bufs, sizes := [][]byte{make([]byte, headerLen+1420+tagLen)}, []int{0}
	one := packet(a.addr, b.addr, string(make([]byte, benchPacket-20)))
	if n := testing.AllocsPerRun(100, func() {
		sizes[0] = copy(bufs[0][headerLen:], one)
		s.route(bufs, sizes)
	}); n != 0 {
		t.Errorf("sending allocates %v times", n)
	}
	r := &receiver{d: b.Device, from: a.port}
	messages := make([][]byte, 200)
	for i := range messages {
		m := make([]byte, headerLen+1420+tagLen)
		counter, _ := out.reserve(1)
		messages[i] = out.seal(m, copy(m[headerLen:], one), 1420, counter, new(nonce))
	}
	if in.local != out.remote {
		t.Fatal("not the same session")
	}
	r.now = b.now()
	if n := testing.AllocsPerRun(100, func() {
		r.take(messages[0])
		r.account()
		messages, r.packets = messages[1:], r.packets[:0]
	}); n != 0 {
		t.Errorf("receiving allocates %v times", n)
	}
}
