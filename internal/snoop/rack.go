package snoop

import (
	"time"

	"ginnel/internal/bbr"
)

// rack finds lost packets by time (RFC 8985): a packet is lost if one that was sent later has
// arrived and the reordering window has passed.
type rack struct {
	sent time.Duration // when the most recently sent packet that has arrived was sent
	end  uint32        // and where it ends
	rtt  time.Duration // its round-trip time
	any  bool          // there is one

	fack      uint32 // the highest sequence number that has arrived
	reordered bool   // a packet has arrived after others that were sent later
	window    int    // quarters of the minimum round-trip time by which packets may pass each other
	widened   uint64 // bytes that must be delivered before the window may grow again
	keep      int    // repairs after which the window is as in the beginning
}

const (
	maxReorder  = 16 // quarters
	keepReorder = 16 // repairs (RFC 8985, section 6.2)
)

func (r *rack) init() { r.window = 1 }

// update takes a packet that has arrived.
func (r *rack) update(now time.Duration, p *packet, rate *rate, minRTT time.Duration, flight int) {
	rtt := now - p.sent
	if p.sends > 1 && rtt < minRTT {
		r.spurious(rate.delivered, flight) // that is too soon: an earlier one has arrived, and was only late
		return
	}
	if !r.any || p.sent > r.sent || p.sent == r.sent && after(p.end(), r.end) {
		r.sent, r.end, r.rtt = p.sent, p.end(), rtt
	}
	switch {
	case !r.any || after(p.end(), r.fack):
		r.fack = p.end()
	case p.sends == 1 && after(r.fack, p.end()):
		r.reordered = true
	}
	r.any = true
}

// spurious notes that a packet was taken for lost that was only late: packets pass each other by
// more than was thought. The window grows once a round trip.
func (r *rack) spurious(delivered uint64, flight int) {
	r.reordered, r.keep = true, keepReorder
	if delivered >= r.widened {
		r.window = min(r.window+1, maxReorder)
		r.widened = delivered + uint64(max(flight, 1))
	}
}

// repair notes that a repair begins.
func (r *rack) repair() {
	if r.keep--; r.keep == 0 {
		r.window = 1
	}
}

// slack is how much later than others a packet may arrive. Nothing is waited for while no packet
// was ever seen to pass another, and three that were sent later have arrived.
func (r *rack) slack(rtt *roundTrip, sacked int, recovering bool) time.Duration {
	if !r.reordered && (recovering || sacked >= dupThresh) {
		return 0
	}
	return min(time.Duration(r.window)*rtt.min/4, rtt.smoothed)
}

// sentBefore reports whether p was sent before the packet that tells of losses.
func (r *rack) sentBefore(p *packet) bool {
	return r.any && (p.sent < r.sent || p.sent == r.sent && after(r.end, p.end()))
}

// detectLoss marks the packets that are lost by now. Others may be soon, for which it sets the
// timer.
func (s *Sender) detectLoss(now time.Duration) {
	s.timer.reorder = 0
	if s.holes {
		s.markHole(now) // what has arrived of the rest is not known
		return
	}
	slack := s.rack.slack(&s.rtt, s.sackedPackets(), s.toSend.head != none)
	for n := s.flying.head; n != none; n = s.flying.head {
		p := s.pkts.at(n)
		if !s.rack.sentBefore(p) {
			return
		}
		if due := p.sent + s.rack.rtt + slack; due > now {
			s.timer.reorder = due
			return
		}
		s.lose(now, n, p)
	}
}

// sackedPackets is about how many packets were acknowledged selectively.
func (s *Sender) sackedPackets() (n int) {
	for _, b := range s.sacked {
		if n += (int(b.End-b.Start) + s.mss - 1) / s.mss; n >= dupThresh {
			break
		}
	}
	return n
}

// markHole marks the oldest packet as lost, unless it has been sent again already: what a peer
// without SACK tells.
func (s *Sender) markHole(now time.Duration) {
	if s.pkts.count == 0 {
		return
	}
	n := s.pkts.first
	if p := s.pkts.at(n); p.status == inFlight && p.sends == 1 {
		s.lose(now, n, p)
	}
}

// lose notes that a packet in flight is lost.
func (s *Sender) lose(now time.Duration, n uint32, p *packet) {
	if s.toSend.head == none {
		s.rack.repair()
	}
	s.giveUp(n, p)
	s.stats.Lost++
	if p.sent <= s.rtt.since {
		return // it says nothing of the path that is taken now
	}
	s.lost += int(p.length)
	s.rate.lost += uint64(p.length)
	s.model.OnLoss(now, &bbr.Loss{Size: int(p.length), TxInFlight: int(p.flight), LostSince: int(s.rate.lost - p.lostBefore)})
}

// giveUp has a packet in flight sent again.
func (s *Sender) giveUp(n uint32, p *packet) {
	s.pkts.unlink(&s.flying, n)
	s.pkts.append(&s.toSend, n)
	p.status = lost
	s.flight -= int(p.length)
	s.backlog += int(p.length)
}
