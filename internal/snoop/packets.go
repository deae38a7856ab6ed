package snoop

import "time"

// status is the state of a packet.
type status uint8

const (
	inFlight status = iota // sent, neither acknowledged nor lost
	lost                   // to be retransmitted
	arrived                // selectively acknowledged
)

// none stands for no packet. Packet numbers have 31 bits, so that none is not one of them.
const (
	none      = ^uint32(0)
	maxNumber = none >> 1
)

// packet is a packet of data that was sent and is not cumulatively acknowledged.
type packet struct {
	seq    uint32
	length uint16 // in sequence numbers; a FIN takes one
	status status
	sends  uint8 // how often it was sent, at most 255

	prev, next uint32 // neighbours in flightList or lostList, as packet numbers; none at the ends

	sent time.Duration // when it was sent last

	// State of rate when the packet was sent last (draft-cheng-iccrg-delivery-rate-estimation).
	delivered   uint64
	deliveredAt time.Duration
	firstSentAt time.Duration
	lostBefore  uint64
	flight      uint32 // bytes in flight, this packet included
	appLimited  bool
}

func (p *packet) end() uint32 { return p.seq + uint32(p.length) }

// packets is a ring of the packets that were sent and are not cumulatively acknowledged, in the
// order of the stream. A packet keeps its number when the ring grows.
type packets struct {
	ring  []packet // its length is a power of two
	first uint32   // number of the oldest packet
	count uint32
}

const minRing = 16

func (p *packets) at(n uint32) *packet { return &p.ring[n&uint32(len(p.ring)-1)] }

// number returns the number of the packet i places after the oldest.
func (p *packets) number(i uint32) uint32 { return (p.first + i) & maxNumber }

// next returns the number after n.
func (p *packets) next(n uint32) uint32 { return (n + 1) & maxNumber }

// last returns the number after that of the newest packet.
func (p *packets) last() uint32 { return p.number(p.count) }

// push adds a packet, whose fields are not cleared.
func (p *packets) push() (uint32, *packet) {
	if int(p.count) == len(p.ring) {
		p.grow()
	}
	n := p.last()
	p.count++
	return n, p.at(n)
}

func (p *packets) grow() {
	old := *p
	p.ring = make([]packet, max(minRing, 2*len(old.ring)))
	for i := range old.count {
		*p.at(old.number(i)) = *old.at(old.number(i))
	}
}

// pop removes the oldest packet. It frees a large ring that becomes empty.
func (p *packets) pop() {
	p.first = p.next(p.first)
	p.count--
	if p.count == 0 && len(p.ring) > 4*minRing {
		p.ring = nil
	}
}

// search returns the number of the first packet that ends after seq; last if there is none.
func (p *packets) search(seq uint32) uint32 {
	lo, hi := uint32(0), p.count
	for lo < hi {
		mid := (lo + hi) / 2
		if after(p.at(p.number(mid)).end(), seq) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return p.number(lo)
}

// list links packets in the order in which they were sent last.
type list struct{ head, tail uint32 }

func newList() list { return list{none, none} }

func (p *packets) append(l *list, n uint32) {
	k := p.at(n)
	k.prev, k.next = l.tail, none
	if l.tail != none {
		p.at(l.tail).next = n
	} else {
		l.head = n
	}
	l.tail = n
}

func (p *packets) unlink(l *list, n uint32) {
	k := p.at(n)
	if k.prev != none {
		p.at(k.prev).next = k.next
	} else {
		l.head = k.next
	}
	if k.next != none {
		p.at(k.next).prev = k.prev
	} else {
		l.tail = k.prev
	}
}

// Sequence numbers are compared modulo 2^32 (RFC 9293, section 3.4).

func after(a, b uint32) bool   { return int32(a-b) > 0 }
func atLeast(a, b uint32) bool { return int32(a-b) >= 0 }
