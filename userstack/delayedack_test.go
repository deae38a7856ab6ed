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

// ackTest offers packets of one connection to a delayedAcks. Packets are named by the order in
// which they were made.
type ackTest struct {
	t    *testing.T
	a    delayedAcks
	now  time.Duration
	made []*stack.PacketBuffer
	sent []int // packets sent since the last call of want
}

func newAckTest(t *testing.T) *ackTest {
	a := &ackTest{t: t, now: 1e9}
	a.a.full = 1420
	t.Cleanup(func() {
		a.a.dropAll()
		if a.a.held != 0 {
			t.Errorf("%d acknowledgements are held after dropAll", a.a.held)
		}
		for i, pkt := range a.made {
			if n := pkt.ReadRefs(); n != 1 {
				t.Errorf("packet %d has %d references, want 1", i, n)
			}
		}
	})
	return a
}

func (a *ackTest) offerKind(kind ackKind, port, ack uint32) {
	a.offer(&ackInfo{id: flowID{ports: port}, kind: kind, ack: ack})
}

func (a *ackTest) offer(p *ackInfo) {
	a.t.Helper()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{})
	a.made = append(a.made, pkt)
	first, held := a.a.offer(p, pkt, a.now)
	if first != nil {
		a.send(first)
		first.DecRef()
	}
	if !held {
		a.send(pkt)
	}
}

func (a *ackTest) send(pkt *stack.PacketBuffer) {
	for i, p := range a.made {
		if p == pkt {
			a.sent = append(a.sent, i)
		}
	}
}

// want checks which packets were sent since the last call.
func (a *ackTest) want(rule string, sent ...int) {
	a.t.Helper()
	if len(sent) != len(a.sent) {
		a.t.Errorf("%s: got %v, want %v", rule, a.sent, sent)
	} else {
		for i := range sent {
			if sent[i] != a.sent[i] {
				a.t.Errorf("%s: got %v, want %v", rule, a.sent, sent)
				break
			}
		}
	}
	a.sent = nil
}

// The rules of delayedAcks, one after the other, on one connection.
func TestDelayedAcks(t *testing.T) {
	const port = 7
	a := newAckTest(t)
	a.offerKind(noAck, port, 0)
	a.want("a SYN is sent", 0)
	a.offerKind(pureAck, port, 1000)
	a.want("the ACK that completes the handshake is sent at once", 1)
	a.offerKind(pureAck, port, 1064)
	a.want("the acknowledgement of a small message is held")
	a.offerKind(piggybackedAck, port, 1064)
	a.want("the response replaces it", 3)
	a.offerKind(pureAck, port, 1128)
	a.offerKind(pureAck, port, 1192)
	a.want("every second acknowledgement is sent and replaces the first", 5)
	a.offerKind(pureAck, port, 1192)
	a.want("a duplicate acknowledgement is sent", 6)
	a.offerKind(pureAck, port, 1256)
	a.offerKind(pureAck, port, 1256)
	a.want("a duplicate of a held acknowledgement: both are sent", 7, 8)
	const full = 1420
	overdue := func(at, next time.Duration) {
		t.Helper()
		if got := a.a.releaseDue(at, func(p *stack.PacketBuffer) { a.send(p); p.DecRef() }); got != next {
			t.Errorf("after %v the next is due at %v, want %v", at-a.now, got, next)
		}
	}
	a.offerKind(pureAck, port, 1256+full)
	a.want("the acknowledgement of a full segment is held")
	a.offerKind(pureAck, port, 1256+7*full)
	a.want("that of seven full segments is held")
	a.offerKind(pureAck, port, 1256+8*full)
	a.want("that of eight full segments is sent", 11)
	a.offerKind(pureAck, port, 1256+9*full)
	overdue(a.now+bulkAckDelay-1, a.now+bulkAckDelay)
	a.want("bulkAckDelay has not expired")
	overdue(a.now+bulkAckDelay, 0)
	a.want("bulkAckDelay has expired", 12)
	a.offerKind(pureAck, port, 1256+10*full-1)
	a.want("the acknowledgement of less than a segment is held")
	overdue(a.now+ackDelay-1, a.now+ackDelay)
	a.want("ackDelay has not expired")
	overdue(a.now+ackDelay, 0)
	a.want("ackDelay has expired", 13)
	a.offerKind(pureAck, port, 1256+11*full-2)
	a.offerKind(pureAck, port, 1256+12*full)
	overdue(a.now+bulkAckDelay, 0)
	a.want("bulkAckDelay applies as soon as a full segment is unacknowledged", 15)
	a.offerKind(pureAck, port, 1256+12*full+1)
	a.offerKind(noAck, port, 0)
	a.want("a SYN on the same ports: the held acknowledgement and the SYN are sent", 16, 17)
	a.offerKind(pureAck, port, 9000)
	a.want("the new connection completes its handshake", 18)
}

// An acknowledgement with SACK blocks is sent at once, and so is the next one, because it may
// report that the gap is filled.
func TestDelayedAcksWithSACK(t *testing.T) {
	a := newAckTest(t)
	a.offerKind(piggybackedAck, 7, 1000)
	a.offer(&ackInfo{id: flowID{ports: 7}, kind: pureAck, ack: 1100, sack: true})
	a.want("SACK: a gap", 0, 1)
	a.offer(&ackInfo{id: flowID{ports: 7}, kind: pureAck, ack: 1200, sack: true})
	a.want("SACK: one gap is filled, another is left", 2)
	a.offerKind(pureAck, 7, 1300)
	a.want("no SACK any more: the other gap is filled", 3)
	a.offerKind(pureAck, 7, 1400)
	a.want("no gap: held")
}

// The options of a SYN-ACK are not SACK blocks, so the acknowledgement after it may be held.
func TestAckInfoOfSYN(t *testing.T) {
	for _, c := range []struct {
		flags  header.TCPFlags
		option []byte
		sack   bool
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
		if a := ackInfoOf(pkt); a.sack != c.sack || a.ack != 7 {
			t.Errorf("%v: SACK %v, acknowledges %d", c.flags, a.sack, a.ack)
		}
		pkt.DecRef()
	}
}

// When a connection evicts another one from its slot, the held acknowledgement of that is sent.
func TestDelayedAcksCollide(t *testing.T) {
	a, b := flowID{ports: 1}, flowID{ports: 2}
	for b.slot() != a.slot() {
		b.ports++
	}
	test := newAckTest(t)
	test.offerKind(piggybackedAck, a.ports, 1)
	test.offerKind(pureAck, a.ports, 2)
	test.offerKind(pureAck, b.ports, 100)
	test.want("the held acknowledgement of the evicted connection is sent first", 0, 1, 2)
	test.offerKind(pureAck, a.ports, 3)
	test.want("the first connection has lost its state too", 3)
}

// With random traffic, the peer sees acknowledgement numbers that never decrease and that are less
// than eight full segments behind.
func TestDelayedAcksAgainstNaive(t *testing.T) {
	test := newAckTest(t)
	var made []uint32
	ack, told := uint32(1<<32-3000), uint32(1<<32-3000) // the number wraps around
	test.offerKind(piggybackedAck, 9, ack)
	made = append(made, ack)
	for range 2000 {
		n := len(test.sent)
		ack += uint32(rand.IntN(3)) * uint32(rand.IntN(1500))
		made = append(made, ack)
		test.offerKind(ackKind(1+rand.IntN(2)), 9, ack)
		for _, i := range test.sent[n:] {
			if i > 0 && made[i]-told > 1<<31 {
				t.Fatalf("acknowledgement %d is sent after %d", made[i], told)
			}
			told = made[i]
		}
		if behind := ack - told; behind >= bulkAckSegments*test.a.full {
			t.Fatalf("%d bytes are not acknowledged", behind)
		}
		if test.a.held > 1 {
			t.Fatalf("%d acknowledgements are held", test.a.held)
		}
	}
}

// Requests and responses take one packet each, and a message without a response is acknowledged.
func TestAcksArePiggybacked(t *testing.T) {
	p := newPair(t, 0)
	var pure, all atomic.Int64
	p.drop = func(packet []byte) bool {
		if l4, hdr, _ := classify(packet); header.TCP(packet[l4:]).Flags() == header.TCPFlagAck && len(packet) == hdr {
			pure.Add(1)
		}
		all.Add(1)
		return false
	}
	a, b := p.connect(t, addrB4)
	go io.Copy(b, b)
	buf := make([]byte, 64)
	exchange(t, a, buf)
	beforePure, before := pure.Load(), all.Load()
	const n = 200
	for range n {
		exchange(t, a, buf)
	}
	// On a slow machine a response may take longer than ackDelay.
	if got := pure.Load() - beforePure; got > n {
		t.Errorf("%d of %d packets for %d exchanges are pure acknowledgements", got, all.Load()-before, n)
	}
	for deadline := time.Now().Add(5 * time.Second); pure.Load() == beforePure; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the last response is not acknowledged")
		}
	}
}

// exchange sends buf to an echo server and waits for the echo.
func exchange(t *testing.T, c net.Conn, buf []byte) {
	t.Helper()
	if _, err := c.Write(buf); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, buf); err != nil {
		t.Fatal(err)
	}
}
