package userstack

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// ackDelay is the longest time that an acknowledgement is delayed. "The delay MUST be less than
	// 0.5 seconds" (RFC 9293, section 3.8.6.3). It is kept short because a peer with Nagle's
	// algorithm sends nothing more until the acknowledgement arrives.
	ackDelay = 10 * time.Millisecond

	// bulkAckDelay is how long the acknowledgement of full segments waits to be merged with the
	// next ones, up to bulkAckSegments segments. Senders count acknowledged bytes or packets, not
	// acknowledgements (RFC 3465), and a receiver with GRO sends no more acknowledgements than
	// that.
	bulkAckDelay    = time.Millisecond
	bulkAckSegments = 8

	// maxAckFlows is the size of the table of connections. Two connections that share a slot evict
	// each other, and the acknowledgements of the evicted one are sent at once.
	maxAckFlows = 256
)

// delayedAcks holds pure acknowledgements back until a packet of the same connection can carry
// them: the response, which usually follows soon, the next request, the FIN, or the acknowledgement
// of more data. gVisor sends one acknowledgement for each segment that it receives, and each costs
// as much as a data packet.
//
// An acknowledgement is held only if it is new, carries no SACK block, and the one before carried
// none, because it may report that the gap is filled. Therefore an acknowledgement that must be
// immediate still is (RFC 5681, section 4.2). Acknowledgements are cumulative, so any later packet
// of the connection replaces the one that is held.
//
// It has no lock and no clock; it belongs to a Queue.
type delayedAcks struct {
	full  uint32 // payload bytes of a full segment
	flows [maxAckFlows]ackFlow
	held  int // acknowledgements that are held
}

// ackFlow is the state of one connection.
type ackFlow struct {
	id    flowID
	acked uint32              // acknowledgement number of the last packet that was sent
	sack  bool                // the last packet that was sent carried a SACK block
	pkt   *stack.PacketBuffer // the acknowledgement that is held, or nil
	ack   uint32              // acknowledgement number of pkt
	due   time.Duration       // when pkt is sent at the latest
}

// flowID is the addresses and ports of an outbound packet.
type flowID struct {
	addrs [32]byte // source and destination; 8 bytes are used for IPv4
	ports uint32
}

// slot is the index of the connection in delayedAcks.flows.
func (id *flowID) slot() uint32 { return id.ports * 0x9e3779b1 >> 24 }

// ackInfo is what delayedAcks needs to know about an outbound TCP packet.
type ackInfo struct {
	id   flowID
	kind ackKind
	ack  uint32
	sack bool // it carries a SACK block
}

type ackKind int

const (
	noAck          ackKind = iota // no ACK flag: a SYN or RST
	piggybackedAck                // data, SYN or FIN with an acknowledgement
	pureAck                       // nothing except an acknowledgement
)

// ackInfoOf parses a packet that gVisor made.
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
	a.sack = tcp.Flags()&header.TCPFlagSyn == 0 && !plainOptions(tcp) // the options of a SYN hold no SACK block
	return a
}

// offer decides whether packet pkt, described by p, is held or sent now. If it reports true, it has
// taken a reference to pkt. If first is not nil, first must be sent before pkt, and the caller owns
// its reference.
func (a *delayedAcks) offer(
	p *ackInfo, pkt *stack.PacketBuffer, now time.Duration,
) (first *stack.PacketBuffer, held bool) {
	f := &a.flows[p.id.slot()]
	if f.id != p.id || p.kind == noAck {
		first = a.release(f)
		*f = ackFlow{id: p.id, acked: p.ack, sack: p.sack}
		if p.kind == noAck {
			*f = ackFlow{} // do not delay the ACK that completes the handshake
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
	// The peer counts duplicate acknowledgements, so the held one is sent too if p repeats it.
	if first != nil && (p.kind != pureAck || p.ack != f.ack) {
		first.DecRef()
		first = nil
	}
	return first, false
}

// delay is how long an acknowledgement may be held; 0 means not at all.
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

// piggybacked notes that a data packet with acknowledgement number ack is sent. A held
// acknowledgement of the same connection is then superfluous and is dropped.
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

// release removes the held acknowledgement of f and returns it with its reference, or nil.
func (a *delayedAcks) release(f *ackFlow) *stack.PacketBuffer {
	held := f.pkt
	if held != nil {
		f.pkt, f.acked = nil, f.ack
		a.held--
	}
	return held
}

// dropAll drops all held acknowledgements.
func (a *delayedAcks) dropAll() {
	for i := range a.flows {
		if held := a.release(&a.flows[i]); held != nil {
			held.DecRef()
		}
	}
}

// releaseDue calls send for each acknowledgement whose delay has expired; send owns the reference.
// It returns when the next one is due, or 0 if none is held.
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
