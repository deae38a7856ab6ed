package userstack

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// ackDelay is how long an acknowledgement waits at the most. "The delay MUST be less than 0.5
	// seconds" (RFC 9293, section 3.8.6.3); a peer that waits for it before it sends more, as Nagle's
	// algorithm has it, waits no longer than this.
	ackDelay = 10 * time.Millisecond

	// bulkAckDelay is how long the acknowledgement of full segments waits for that of more, up to bulkAck
	// segments. Senders count bytes or packets that are acknowledged, not acknowledgements (RFC 3465),
	// and where a receiver joins what arrives together (GRO) they see no more of them.
	bulkAckDelay    = time.Millisecond
	bulkAckSegments = 8

	// maxAckFlows connections are known at a time. Those of more have their acknowledgements sent at
	// once.
	maxAckFlows = 256
)

// delayedAcks has acknowledgements wait for something to travel with: the answer, which mostly follows
// soon, the next question, the end of the stream, or the acknowledgement of more. gVisor sends one
// for whatever comes, and each costs as much as a packet.
//
// An acknowledgement waits only if it is new, carries no SACK block, and the one before carried
// none: that gap may be filled now. So what must be acknowledged at once still is (RFC 5681,
// section 4.2). What follows in its connection acknowledges no less.
//
// It has no lock and no clock; its owner is a queue.
type delayedAcks struct {
	full  uint32 // bytes of payload of a full segment
	flows [maxAckFlows]ackFlow
	held  int // how many wait
}

// ackFlow is what is known of one connection.
type ackFlow struct {
	id    flowID
	acked uint32              // by the last packet that left
	sack  bool                // of which that packet told
	pkt   *stack.PacketBuffer // waits; nil: none
	ack   uint32              // its number
	due   time.Duration       // when it leaves nevertheless
}

// flowID is the addresses and ports of a packet that leaves.
type flowID struct {
	addrs [32]byte // 8 bytes of an IPv4 packet
	ports uint32
}

// slot is where a connection is kept, if it is.
func (id *flowID) slot() uint32 { return id.ports * 0x9e3779b1 >> 24 }

// ackInfo is what a TCP packet says, as far as it matters here.
type ackInfo struct {
	id   flowID
	kind ackKind
	ack  uint32
	sack bool // by a selective acknowledgement
}

type ackKind int

const (
	noAck          ackKind = iota // a connection begins
	piggybackedAck                // the packet has more to say
	pureAck                       // it has nothing else to say
)

// ackInfoOf reads a packet that gVisor made.
func ackInfoOf(pkt *stack.PacketBuffer) (a ackInfo) {
	ip, tcp := pkt.NetworkHeader().Slice(), header.TCP(pkt.TransportHeader().Slice())
	if ip[0]>>4 == 4 {
		copy(a.id.addrs[:], ip[12:20])
	} else {
		copy(a.id.addrs[:], ip[8:40])
	}
	a.id.ports, a.ack = binary.BigEndian.Uint32(tcp), tcp.AckNumber()
	switch {
	case tcp.Flags()&header.TCPFlagAck == 0:
		a.kind = noAck
	case tcp.Flags() != header.TCPFlagAck || pkt.Data().Size() > 0:
		a.kind = piggybackedAck
	default:
		a.kind = pureAck
	}
	a.sack = tcp.Flags()&header.TCPFlagSyn == 0 && !plainOptions(tcp) // a SYN's options tell of none
	return a
}

// offer decides about a packet that is to leave, whose acker is p. It reports whether the packet
// waits, for which it takes a reference, and returns another that has to leave before it, whose
// reference is then the caller's; nil: none.
func (a *delayedAcks) offer(p *ackInfo, pkt *stack.PacketBuffer, now time.Duration) (first *stack.PacketBuffer, waits bool) {
	f := &a.flows[p.id.slot()]
	if f.id != p.id || p.kind == noAck {
		first = a.release(f)
		*f = ackFlow{id: p.id, acked: p.ack, sack: p.sack}
		if p.kind == noAck {
			*f = ackFlow{} // so that the other side learns at once that the connection stands
		}
		return first, false
	}
	if delay := a.delay(f, p); delay > 0 {
		due := now + delay
		if f.pkt == nil {
			a.held++
		} else {
			f.pkt.DecRef()
			due = min(due, f.due)
		}
		f.pkt, f.ack, f.due = pkt.IncRef(), p.ack, due
		return nil, true
	}
	first = a.release(f)
	f.acked, f.sack = p.ack, p.sack
	if first != nil && (p.kind != pureAck || p.ack != f.ack) { // those that repeat another are counted at the other side
		first.DecRef()
		first = nil
	}
	return first, false
}

// delay is how long an acknowledgement may wait; 0: it may not.
func (a *delayedAcks) delay(f *ackFlow, p *ackInfo) time.Duration {
	repeats := p.ack == f.acked || f.pkt != nil && p.ack == f.ack
	if p.kind != pureAck || p.sack || f.sack || repeats {
		return 0
	}
	switch n := p.ack - f.acked; {
	case n < a.full && f.pkt == nil:
		return ackDelay
	case n < a.full*bulkAckSegments && n >= a.full:
		return bulkAckDelay
	}
	return 0
}

// piggybacked notes that data of a connection leave with acknowledgement ack, which makes the one that
// waits needless.
func (a *delayedAcks) piggybacked(id *flowID, ack uint32) {
	f := &a.flows[id.slot()]
	if f.id != *id {
		return
	}
	if held := a.release(f); held != nil {
		held.DecRef()
	}
	f.acked, f.sack = ack, false
}

// release returns what waits in f, with its reference, or nil.
func (a *delayedAcks) release(f *ackFlow) *stack.PacketBuffer {
	held := f.pkt
	if held != nil {
		f.pkt, f.acked = nil, f.ack
		a.held--
	}
	return held
}

// dropAll gives up all that wait.
func (a *delayedAcks) dropAll() {
	for i := range a.flows {
		if held := a.release(&a.flows[i]); held != nil {
			held.DecRef()
		}
	}
}

// releaseDue calls send with each that has waited for long enough, whose reference is then send's, and
// returns when the next has; 0 if none waits.
func (a *delayedAcks) releaseDue(now time.Duration, send func(*stack.PacketBuffer)) (next time.Duration) {
	for i := range a.flows {
		if a.held == 0 {
			break
		}
		switch f := &a.flows[i]; {
		case f.pkt == nil:
		case f.due <= now:
			send(a.release(f))
		case next == 0 || f.due < next:
			next = f.due
		}
	}
	return next
}
