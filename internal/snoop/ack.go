package snoop

import "time"

// Ack handles a cumulative acknowledgement up to ack and the SACK blocks of the same packet.
// Invalid blocks are ignored.
func (s *Sender) Ack(now time.Duration, ack uint32, sacks []Block) {
	if after(ack, s.max) || after(s.una, ack) {
		return // beyond what was sent, or older than an earlier one
	}
	if after(ack, s.nxt) {
		s.nxt = ack
	}
	var latest newest
	var rtt rttSample
	before := s.rate.delivered
	advanced := ack != s.una
	s.ackCumulative(now, ack, &latest, &rtt)
	s.ackSelective(now, sacks, &latest, &rtt)
	if advanced || s.rate.delivered != before {
		s.rtt.backoff = 0
		s.probe.sent = s.probe.sent && after(s.probe.end, ack)
	}
	switch {
	case len(sacks) > 0:
		s.fastRecovery, s.dups = false, 0
	case advanced:
		s.dups = 0
		s.fastRecovery = s.fastRecovery && after(s.recoveryPoint, ack)
	}
	if rtt.rtt > 0 {
		s.rtt.add(rtt.rtt)
	}
	s.detectLoss(now)
	if latest.any || s.newlyLost > 0 {
		sample := s.rate.sample(now, &latest, s.rtt.min)
		if latest.firstSentAt <= s.rtt.since {
			sample.Interval = 0
		}
		sample.RTT, sample.Acked, sample.Lost = rtt.rtt, int(s.rate.delivered-before), s.newlyLost
		sample.InFlight, sample.CwndLimited = s.flight, s.rate.limited
		s.model.OnAck(&sample)
		s.rate.limited, s.newlyLost = false, 0
		s.pace.adapt(now, s.model)
	}
	if s.timer.rtoRecovery && atLeast(ack, s.timer.rtoRecoveryPoint) {
		s.timer.rtoRecovery = false
		s.model.OnRecovered()
	}
	if advanced || s.rate.delivered != before {
		s.arm(now)
	} else {
		s.setEarliest()
	}
}

// rttSample is the round-trip time that an acknowledgement shows. Only packets that were sent once
// count (Karn's algorithm, RFC 6298 section 3), of these the one sent last.
type rttSample struct {
	rtt  time.Duration // 0: none
	sent time.Duration // when the packet was sent
}

func (s *Sender) ackCumulative(now time.Duration, ack uint32, latest *newest, rtt *rttSample) {
	for s.pkts.count > 0 {
		p := s.pkts.at(s.pkts.first)
		if after(p.end(), ack) {
			if after(ack, p.seq) { // a part of a packet, when the peer's window is full
				s.trim(p, ack)
			}
			break
		}
		if p.status != arrived {
			s.deliver(now, s.pkts.first, p, latest, rtt)
		}
		s.pkts.pop()
	}
	s.una = ack
	s.sacked.forget(ack)
}

// trim removes the part of a packet below ack.
func (s *Sender) trim(p *packet, ack uint32) {
	n := int(ack - p.seq)
	switch p.status {
	case inFlight:
		s.flight -= n
	case lost:
		s.lostBytes -= n
	}
	s.rate.delivered += uint64(n)
	p.seq, p.length = ack, p.length-uint16(n)
}

func (s *Sender) ackSelective(now time.Duration, sacks []Block, latest *newest, rtt *rttSample) {
	for i, b := range sacks {
		switch {
		case !after(b.End, b.Start):
			continue
		case i == 0 && s.isDuplicate(sacks):
			s.stats.Spurious++
			s.rack.spurious(s.rate.delivered, s.flight)
			continue
		case !atLeast(b.Start, s.una) || after(b.End, s.nxt):
			continue // below ack, or never sent in the present packets
		}
		s.fresh = s.fresh[:0]
		s.sacked.add(b, func(part Block) { s.fresh = append(s.fresh, part) })
		for _, part := range s.fresh { // only now, because deliverRange needs all of them in sacked
			s.deliverRange(now, part, latest, rtt)
		}
	}
}

// isDuplicate reports whether the first block is a D-SACK: it reports a packet that has arrived
// twice (RFC 2883, section 4).
func (s *Sender) isDuplicate(sacks []Block) bool {
	b := sacks[0]
	return !after(b.End, s.una) || len(sacks) > 1 && atLeast(b.Start, sacks[1].Start) && atLeast(sacks[1].End, b.End)
}

// deliverRange delivers the packets of a range that is newly acknowledged.
func (s *Sender) deliverRange(now time.Duration, fresh Block, latest *newest, rtt *rttSample) {
	for n := s.pkts.search(fresh.Start); n != s.pkts.last(); n = s.pkts.next(n) {
		p := s.pkts.at(n)
		if !after(fresh.End, p.seq) {
			return
		}
		whole := atLeast(p.seq, fresh.Start) && atLeast(fresh.End, p.end())
		if p.status != arrived && (whole || s.sacked.holds(Block{p.seq, p.end()})) { // the rest was acknowledged before
			s.deliver(now, n, p, latest, rtt)
			p.status = arrived
		}
	}
}

// deliver records that a packet has arrived.
func (s *Sender) deliver(now time.Duration, n uint32, p *packet, latest *newest, rtt *rttSample) {
	switch p.status {
	case inFlight:
		s.flight -= int(p.length)
		s.pkts.unlink(&s.flightList, n)
	case lost: // a packet that was late, not lost
		s.lostBytes -= int(p.length)
		s.pkts.unlink(&s.lostList, n)
		s.rack.spurious(s.rate.delivered, s.flight)
	}
	s.rate.take(now, p, latest)
	if p.sends == 1 && p.sent > s.rtt.since && (rtt.rtt == 0 || p.sent >= rtt.sent) {
		rtt.rtt, rtt.sent = max(now-p.sent, 1), p.sent
	}
	s.rack.update(now, p, &s.rate, s.rtt.min, s.flight)
}

// dupThresh is the number of duplicate acknowledgements that indicate a loss (RFC 5681).
const dupThresh = 3

// Duplicate handles a duplicate acknowledgement (RFC 5681, section 2) of a peer without SACK: it
// has no data and the same window. dupThresh in a row indicate that the oldest packet is lost.
func (s *Sender) Duplicate(now time.Duration) {
	if s.flight == 0 || len(s.sacked) > 0 {
		return
	}
	if s.dups++; s.dups == dupThresh {
		s.fastRecovery, s.recoveryPoint = true, s.nxt
		s.detectLoss(now)
		s.setEarliest()
	}
}
