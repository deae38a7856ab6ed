package wireguard

import (
	"testing"
	"time"

	"ginnel/key"
)

// benchKeypairs returns two hosts and their keypairs: out of a and in of b.
func benchKeypairs(tb testing.TB) (a, b *host, out, in *keypair) {
	a, b = newPair(tb)
	a.sendText(b, "x")
	for len(b.tun.take()) == 0 {
		time.Sleep(time.Millisecond)
	}
	p, _ := a.peer(b.key.Public())
	q, _ := b.peer(a.key.Public())
	return a, b, p.current.Load(), q.current.Load()
}

const benchPacket = 1400

// BenchmarkSeal encrypts a packet of 1,400 bytes.
func BenchmarkSeal(b *testing.B) {
	_, _, k, _ := benchKeypairs(b)
	buf := make([]byte, headerLen+1420+tagLen)
	var n nonce
	b.SetBytes(benchPacket)
	b.ReportAllocs()
	for b.Loop() {
		counter, _ := k.reserveCounters(1)
		k.seal(buf, benchPacket, 1420, counter, &n)
	}
}

// BenchmarkSealOpen encrypts and decrypts a packet of 1,400 bytes.
func BenchmarkSealOpen(b *testing.B) {
	_, _, out, in := benchKeypairs(b)
	buf := make([]byte, headerLen+1420+tagLen)
	var n nonce
	b.SetBytes(benchPacket)
	b.ReportAllocs()
	for b.Loop() {
		counter, _ := out.reserveCounters(1)
		if _, ok := in.open(out.seal(buf, benchPacket, 1420, counter, &n), &n); !ok {
			b.Fatal("a genuine message is refused")
		}
	}
}

// BenchmarkHandshake runs both sides of a handshake.
func BenchmarkHandshake(b *testing.B) {
	x, y := twoSides([key.Size]byte{})
	b.ReportAllocs()
	for b.Loop() {
		i, m := x.initiate(b, 1)
		_, response := y.respond(b, m, 2)
		if _, err := i.consumeResponse(response, 1); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSend sends a batch of packets from the Tun to the Bind.
func BenchmarkSend(b *testing.B) {
	x, y, _, _ := benchKeypairs(b)
	x.port.filter(func([]byte, *port) bool { return false })
	s := &sealer{d: x.Device}
	bufs, sizes := make([][]byte, 46), make([]int, 46)
	for i := range bufs {
		bufs[i] = make([]byte, headerLen+1420+tagLen)
	}
	one := packet(x.addr, y.addr, string(make([]byte, benchPacket-20)))
	b.SetBytes(int64(len(bufs) * benchPacket))
	b.ReportAllocs()
	for b.Loop() {
		for i := range bufs { // sealing encrypts in place
			sizes[i] = copy(bufs[i][headerLen:], one)
		}
		s.route(bufs, sizes)
	}
}

// Neither sending nor receiving a packet allocates.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	a, b, out, in := benchKeypairs(t)
	a.port.filter(func([]byte, *port) bool { return false })
	s := &sealer{d: a.Device}
	bufs, sizes := [][]byte{make([]byte, headerLen+1420+tagLen)}, []int{0}
	one := packet(a.addr, b.addr, string(make([]byte, benchPacket-20)))
	if n := testing.AllocsPerRun(100, func() {
		sizes[0] = copy(bufs[0][headerLen:], one)
		s.route(bufs, sizes)
	}); n != 0 {
		t.Errorf("sending: %v allocations, want none", n)
	}
	r := &inbound{d: b.Device, from: a.port}
	messages := make([][]byte, 200)
	for i := range messages {
		m := make([]byte, headerLen+1420+tagLen)
		counter, _ := out.reserveCounters(1)
		messages[i] = out.seal(m, copy(m[headerLen:], one), 1420, counter, new(nonce))
	}
	if in.localIndex != out.remoteIndex {
		t.Fatal("the keypairs do not match")
	}
	r.now = b.now()
	if n := testing.AllocsPerRun(100, func() {
		r.handle(messages[0])
		r.recordReceived()
		messages, r.packets = messages[1:], r.packets[:0]
	}); n != 0 {
		t.Errorf("receiving: %v allocations, want none", n)
	}
}
