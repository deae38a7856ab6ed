package userstack

import (
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// ackTest takes packets of one connection; what left is known by its place in the order in which
// they were made.
type ackTest struct {
	t    *testing.T
	a    delayedAcks
	now  time.Duration
	made []*stack.PacketBuffer
	left []int
}

func newAckTest(t *testing.T) *ackTest {
	a := &ackTest{t: t, now: 1e9}
	a.a.full = 1420
	t.Cleanup(func() {
		a.a.dropAll()
		if a.a.held != 0 {
			t.Errorf("%d are held after all were dropped", a.a.held)
		}
		for i, pkt := range a.made {
			if n := pkt.ReadRefs(); n != 1 {
				t.Errorf("packet %d has %d references, want that of the test", i, n)
			}
		}
	})
	return a
}

func (a *ackTest) take(kind ackKind, port, ack uint32) {
	a.takeOf(&ackInfo{id: flowID{ports: port}, kind: kind, ack: ack})
}

func (a *ackTest) takeOf(p *ackInfo) {
	a.t.Helper()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{})
	a.made = append(a.made, pkt)
	first, held := a.a.offer(p, pkt, a.now)
	if first != nil {
		a.leave(first)
		first.DecRef()
	}
	if !held {
		a.leave(pkt)
	}
}

func (a *ackTest) leave(pkt *stack.PacketBuffer) {
	for i, p := range a.made {
		if p == pkt {
			a.left = append(a.left, i)
		}
	}
}

// want says what has left since it was asked last.
func (a *ackTest) want(rule string, left ...int) {
	a.t.Helper()
	if len(left) != len(a.left) {
		a.t.Errorf("%s: got %v, want %v", rule, a.left, left)
	} else {
		for i := range left {
			if left[i] != a.left[i] {
				a.t.Errorf("%s: got %v, want %v", rule, a.left, left)
				break
			}
		}
	}
	a.left = nil
}

func TestAcks(t *testing.T) {
	const port = 7
	a := newAckTest(t)
	a.take(noAck, port, 0)
	a.want("a connection begins", 0)
	a.take(pureAck, port, 1000)
	a.want("the other side learns at once that it stands", 1)
	a.take(pureAck, port, 1064)
	a.want("a small message's waits")
	a.take(piggybackedAck, port, 1064)
	a.want("the answer takes it along", 3)
	a.take(pureAck, port, 1128)
	a.take(pureAck, port, 1192)
	a.want("every second leaves, for the one before too", 5)
	a.take(pureAck, port, 1192)
	a.want("one that repeats another leaves", 6)
	a.take(pureAck, port, 1256)
	a.take(pureAck, port, 1256)
	a.want("so does the other, that waited", 7, 8)
	const full = 1420
	overdue := func(at, next time.Duration) {
		t.Helper()
		if got := a.a.releaseDue(at, func(p *stack.PacketBuffer) { a.leave(p); p.DecRef() }); got != next {
			t.Errorf("after %v the next is due at %v, want %v", at-a.now, got, next)
		}
	}
	a.take(pureAck, port, 1256+full)
	a.want("a full segment's waits")
	a.take(pureAck, port, 1256+7*full)
	a.want("for those of seven")
	a.take(pureAck, port, 1256+8*full)
	a.want("that of eight leaves", 11)
	a.take(pureAck, port, 1256+9*full)
	overdue(a.now+bulkAckDelay-1, a.now+bulkAckDelay)
	a.want("but not for long: not yet")
	overdue(a.now+bulkAckDelay, 0)
	a.want("but not for long: now", 12)
	a.take(pureAck, port, 1256+10*full-1)
	a.want("that of less waits")
	overdue(a.now+ackDelay-1, a.now+ackDelay)
	a.want("longer: not yet")
	overdue(a.now+ackDelay, 0)
	a.want("longer: now", 13)
	a.take(pureAck, port, 1256+11*full-2)
	a.take(pureAck, port, 1256+12*full)
	overdue(a.now+bulkAckDelay, 0)
	a.want("not so if more comes", 15)
	a.take(pureAck, port, 1256+12*full+1)
	a.take(noAck, port, 0)
	a.want("ports are used again", 16, 17)
	a.take(pureAck, port, 9000)
	a.want("by another connection, which stands", 18)
}

// What tells of a gap leaves at once, and so does what follows it, by which the gap may be filled.
func TestAcksOfGaps(t *testing.T) {
	a := newAckTest(t)
	a.take(piggybackedAck, 7, 1000)
	a.takeOf(&ackInfo{id: flowID{ports: 7}, kind: pureAck, ack: 1100, sack: true})
	a.want("a gap", 0, 1)
	a.takeOf(&ackInfo{id: flowID{ports: 7}, kind: pureAck, ack: 1200, sack: true})
	a.want("a gap is filled, another is left", 2)
	a.take(pureAck, 7, 1300)
	a.want("the other is filled", 3)
	a.take(pureAck, 7, 1400)
	a.want("then all is well")
}

// The options of a SYN tell of no gap, so the first acknowledgement of whoever is connected to
// waits for the answer too.
func TestAcksAfterSYN(t *testing.T) {
	for _, c := range []struct {
		flags  header.TCPFlags
		option []byte
		gap    bool
	}{
		{header.TCPFlagSyn | header.TCPFlagAck, []byte{header.TCPOptionMSS, 4, 5, 0}, false},
		{header.TCPFlagAck, []byte{header.TCPOptionNOP, header.TCPOptionNOP, header.TCPOptionSACK, 2}, true},
	} {
		tcp := make(header.TCP, header.TCPMinimumSize, header.TCPMinimumSize+len(c.option))
		tcp.Encode(&header.TCPFields{SrcPort: 1, DstPort: 2, AckNum: 7, DataOffset: uint8(cap(tcp)), Flags: c.flags})
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 60})
		copy(pkt.TransportHeader().Push(cap(tcp)), append(tcp, c.option...))
		ip := header.IPv4(pkt.NetworkHeader().Push(header.IPv4MinimumSize))
		ip.Encode(&header.IPv4Fields{SrcAddr: addressOf(addrA4), DstAddr: addressOf(addrB4)})
		if a := ackInfoOf(pkt); a.sack != c.gap || a.ack != 7 {
			t.Errorf("%v: gap %v, acknowledges %d", c.flags, a.sack, a.ack)
		}
		pkt.DecRef()
	}
}

// A connection that takes another's place has it send what waits.
func TestAcksCollide(t *testing.T) {
	a, b := flowID{ports: 1}, flowID{ports: 2}
	for b.slot() != a.slot() {
		b.ports++
	}
	test := newAckTest(t)
	test.take(piggybackedAck, a.ports, 1)
	test.take(pureAck, a.ports, 2)
	test.take(pureAck, b.ports, 100)
	test.want("what waits leaves first, the other at once", 0, 1, 2)
	test.take(pureAck, a.ports, 3)
	test.want("and the other way round", 3)
}

// Against random traffic: what a peer of one connection learns is never less than what it would
// without acks, except for less than eight full segments for a short time.
func TestAcksAgainstNaive(t *testing.T) {
	test := newAckTest(t)
	var made []uint32
	ack, told := uint32(1<<32-3000), uint32(1<<32-3000) // it wraps
	test.take(piggybackedAck, 9, ack)
	made = append(made, ack)
	for range 2000 {
		n := len(test.left)
		ack += uint32(rand.IntN(3)) * uint32(rand.IntN(1500))
		made = append(made, ack)
		test.take(ackKind(1+rand.IntN(2)), 9, ack)
		for _, i := range test.left[n:] {
			if i > 0 && made[i]-told > 1<<31 {
				t.Fatalf("%d follows %d", made[i], told)
			}
			told = made[i]
		}
		if behind := ack - told; behind >= bulkAckSegments*test.a.full {
			t.Fatalf("%d bytes are not acknowledged", behind)
		}
		if test.a.held > 1 {
			t.Fatalf("%d wait", test.a.held)
		}
	}
}

// Questions and answers take one packet each, and a message without an answer is acknowledged.
func TestAcknowledgementsTravelAlong(t *testing.T) {
	p := newPair(t, 0)
	var alone, all atomic.Int64
	p.drop = func(packet []byte) bool {
		if l4, hdr, _ := classify(packet); header.TCP(packet[l4:]).Flags() == header.TCPFlagAck && len(packet) == hdr {
			alone.Add(1)
		}
		all.Add(1)
		return false
	}
	a, b := p.connect(t, addrB4)
	go io.Copy(b, b)
	buf := make([]byte, 64)
	exchange(t, a, buf)
	beforeAlone, before := alone.Load(), all.Load()
	const n = 200
	for range n {
		exchange(t, a, buf)
	}
	// Where the machine is slow, an answer may take longer than its acknowledgement waits.
	if got := alone.Load() - beforeAlone; got > n {
		t.Errorf("%d of %d packets for %d exchanges only acknowledge", got, all.Load()-before, n)
	}
	for deadline := time.Now().Add(5 * time.Second); alone.Load() == beforeAlone; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the last answer is not acknowledged")
		}
	}
}

func exchange(t *testing.T, c net.Conn, buf []byte) {
	t.Helper()
	if _, err := c.Write(buf); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, buf); err != nil {
		t.Fatal(err)
	}
}
