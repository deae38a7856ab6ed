package snoop

import (
	"time"

	"ginnel/internal/bbr"
)

// rack detects lost packets by time (RFC 8985): a packet is lost if a packet that was sent later
// has arrived and the reordering window has passed.
type rack struct {
	any  bool          // a packet has arrived
	sent time.Duration // RACK.xmit_ts: when the most recently sent packet that has arrived was sent
	end  uint32        // RACK.end_seq: the end of that packet
	rtt  time.Duration // RACK.rtt: the round-trip time of that packet

	fack           uint32 // RACK.fack: the highest sequence number that has arrived
	reordered      bool   // RACK.reordering_seen
	window         int    // RACK.reo_wnd_mult: the reordering window in quarters of the minimum round-trip time
	widened        uint64 // the window may grow again when so many bytes are delivered: once a round trip
	recoveriesLeft int    // RACK.reo_wnd_persist: recoveries until the window shrinks to one quarter
}

const (
	maxReorder     = 16 // quarters
	reorderPersist = 16 // recoveries (RFC 8985, section 6.2)
)

func (r *rack) init() { r.window = 1 }

// update handles the arrival of p.
func (r *rack) update(now time.Duration, p *packet, rate *rate, minRTT time.Duration, flight int) {
	rtt := now - p.sent
	if p.sends > 1 && rtt < minRTT {
		r.spurious(rate.delivered, flight) // too soon for the retransmission: an earlier transmission was late
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

// spurious handles a spurious retransmission: packets are reordered by more than the window. The
// window grows once a round trip.
func (r *rack) spurious(delivered uint64, flight int) {
	r.reordered, r.recoveriesLeft = true, reorderPersist
	if delivered >= r.widened {
		r.window = min(r.window+1, maxReorder)
		r.widened = delivered + uint64(max(flight, 1))
	}
}

// recoveryBegins counts a recovery towards persist.
func (r *rack) recoveryBegins() {
	if r.recoveriesLeft--; r.recoveriesLeft == 0 {
		r.window = 1
	}
}

// sentBefore reports whether p was sent before the most recently sent packet that has arrived.
func (r *rack) sentBefore(p *packet) bool {
	return r.any && (p.sent < r.sent || p.sent == r.sent && after(r.end, p.end()))
}

// reorderWindow returns how much later than others a packet may arrive (RFC 8985, section 6.2 step
// 4). It is zero if no reordering was ever seen and packets are already lost or dupThresh packets
// that were sent later have arrived.
func (s *Sender) reorderWindow() time.Duration {
	if !s.rack.reordered && (s.lostList.head != none || s.sackedPackets() >= dupThresh) {
		return 0
	}
	return min(time.Duration(s.rack.window)*s.rtt.min/4, s.rtt.smoothed)
}

// detectLoss marks the packets that are lost at now, and sets the timer for those that may be lost
// later.
func (s *Sender) detectLoss(now time.Duration) {
	s.timer.reorder = 0
	if s.fastRecovery {
		s.markOldestLost(now) // without SACK, nothing is known about later packets
		return
	}
	window := s.reorderWindow()
	for n := s.flightList.head; n != none; n = s.flightList.head {
		p := s.pkts.at(n)
		if !s.rack.sentBefore(p) {
			return
		}
		if due := p.sent + s.rack.rtt + window; due > now {
			s.timer.reorder = due
			return
		}
		s.markLost(now, n, p)
	}
}

// sackedPackets estimates how many packets were selectively acknowledged. It stops counting at
// dupThresh.
func (s *Sender) sackedPackets() (n int) {
	for _, b := range s.sacked {
		if n += (int(b.End-b.Start) + s.mss - 1) / s.mss; n >= dupThresh {
			break
		}
	}
	return n
}

// markOldestLost marks the oldest packet as lost, unless it was already retransmitted. That is all
// that the acknowledgements of a peer without SACK tell.
func (s *Sender) markOldestLost(now time.Duration) {
	if s.pkts.count == 0 {
		return
	}
	n := s.pkts.first
	if p := s.pkts.at(n); p.status == inFlight && p.sends == 1 {
		s.markLost(now, n, p)
	}
}

// markLost marks a packet in flight as lost.
func (s *Sender) markLost(now time.Duration, n uint32, p *packet) {
	if s.lostList.head == none {
		s.rack.recoveryBegins()
	}
	s.moveToLost(n, p)
	s.stats.Lost++
	if p.sent <= s.rtt.since {
		return // it was sent on an earlier path
	}
	s.newlyLost += int(p.length)
	s.rate.lost += uint64(p.length)
	since := int(s.rate.lost - p.lostBefore)
	s.model.OnLoss(now, &bbr.Loss{Size: int(p.length), TxInFlight: int(p.flight), LostSince: since})
}

// moveToLost moves a packet from flightList to lostList.
func (s *Sender) moveToLost(n uint32, p *packet) {
	s.pkts.unlink(&s.flightList, n)
	s.pkts.append(&s.lostList, n)
	p.status = lost
	s.flight -= int(p.length)
	s.lostBytes += int(p.length)
}
