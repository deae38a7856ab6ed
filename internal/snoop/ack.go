package snoop

import "time"

// Ack takes an acknowledgement up to ack, with the selective ones that came with it. Blocks that
// make no sense are ignored.
func (s *Sender) Ack(now time.Duration, ack uint32, sacks []Block) {
	if after(ack, s.max) || after(s.una, ack) {
		return // it acknowledges what was never sent, or less than an earlier one did
	}
	if after(ack, s.nxt) {
		s.nxt = ack
	}
	var latest newest
	var got arrival
	before := s.rate.delivered
	advanced := ack != s.una
	s.ackCumulative(now, ack, &latest, &got)
	s.ackSelective(now, sacks, &latest, &got)
	if advanced || s.rate.delivered != before {
		s.rtt.backoff = 0
		s.probe.sent = s.probe.sent && after(s.probe.end, ack)
	}
	switch {
	case len(sacks) > 0:
		s.holes, s.dups = false, 0
	case advanced:
		s.dups = 0
		s.holes = s.holes && after(s.holesEnd, ack)
	}
	if got.rtt > 0 {
		s.rtt.add(got.rtt)
	}
	s.detectLoss(now)
	if latest.any || s.lost > 0 {
		sample := s.rate.sample(now, &latest, s.rtt.min)
		if latest.firstSentAt <= s.rtt.since {
			sample.Interval = 0
		}
		sample.RTT, sample.Acked, sample.Lost = got.rtt, int(s.rate.delivered-before), s.lost
		sample.InFlight, sample.CwndLimited = s.flight, s.rate.limited
		s.model.OnAck(&sample)
		s.rate.limited, s.lost = false, 0
		s.pace.adapt(now, s.model)
	}
	if s.timer.recovering && atLeast(ack, s.timer.recovered) {
		s.timer.recovering = false
		s.model.OnRecovered()
	}
	if advanced || s.rate.delivered != before {
		s.arm(now)
	} else {
		s.settle()
	}
}

// arrival is what an acknowledgement says about time.
type arrival struct {
	rtt  time.Duration // of the packet sent last among those that were sent once
	sent time.Duration // when that was
}

func (s *Sender) ackCumulative(now time.Duration, ack uint32, latest *newest, got *arrival) {
	for s.pkts.count > 0 {
		p := s.pkts.at(s.pkts.first)
		if after(p.end(), ack) {
			if after(ack, p.seq) { // a part of a packet: the peer has room for no more
				s.trim(p, ack)
			}
			break
		}
		if p.status != arrived {
			s.deliver(now, s.pkts.first, p, latest, got)
		}
		s.pkts.pop()
	}
	s.una = ack
	s.sacked.forget(ack)
}

// trim takes the part of a packet below ack away.
func (s *Sender) trim(p *packet, ack uint32) {
	n := int(ack - p.seq)
	switch p.status {
	case inFlight:
		s.flight -= n
	case lost:
		s.backlog -= n
	}
	s.rate.delivered += uint64(n)
	p.seq, p.length = ack, p.length-uint16(n)
}

func (s *Sender) ackSelective(now time.Duration, sacks []Block, latest *newest, got *arrival) {
	for i, b := range sacks {
		switch {
		case !after(b.End, b.Start):
			continue
		case i == 0 && s.isDuplicate(sacks):
			s.stats.Spurious++
			s.rack.spurious(s.rate.delivered, s.flight)
			continue
		case !atLeast(b.Start, s.una) || after(b.End, s.nxt):
			continue // older than what ack says, or of nothing that was sent in these packets
		}
		s.fresh = s.fresh[:0]
		s.sacked.add(b, func(part Block) { s.fresh = append(s.fresh, part) })
		for _, part := range s.fresh { // now that sacked holds all of them
			s.deliverRange(now, part, latest, got)
		}
	}
}

// isDuplicate reports whether the first block tells of a packet that has come twice (RFC 2883,
// section 4).
func (s *Sender) isDuplicate(sacks []Block) bool {
	b := sacks[0]
	return !after(b.End, s.una) || len(sacks) > 1 && atLeast(b.Start, sacks[1].Start) && atLeast(sacks[1].End, b.End)
}

// deliverRange notes the arrival of the packets of a range that has newly been acknowledged.
func (s *Sender) deliverRange(now time.Duration, fresh Block, latest *newest, got *arrival) {
	for n := s.pkts.search(fresh.Start); n != s.pkts.last(); n = s.pkts.next(n) {
		p := s.pkts.at(n)
		if !after(fresh.End, p.seq) {
			return
		}
		whole := atLeast(p.seq, fresh.Start) && atLeast(fresh.End, p.end())
		if p.status != arrived && (whole || s.sacked.holds(Block{p.seq, p.end()})) { // the rest came before
			s.deliver(now, n, p, latest, got)
			p.status = arrived
		}
	}
}

// deliver notes that a packet has arrived.
func (s *Sender) deliver(now time.Duration, n uint32, p *packet, latest *newest, got *arrival) {
	switch p.status {
	case inFlight:
		s.flight -= int(p.length)
		s.pkts.unlink(&s.flying, n)
	case lost: // it was only late
		s.backlog -= int(p.length)
		s.pkts.unlink(&s.toSend, n)
		s.rack.spurious(s.rate.delivered, s.flight)
	}
	s.rate.take(now, p, latest)
	if p.sends == 1 && p.sent > s.rtt.since && (got.rtt == 0 || p.sent >= got.sent) {
		got.rtt, got.sent = max(now-p.sent, 1), p.sent
	}
	s.rack.update(now, p, &s.rate, s.rtt.min, s.flight)
}

// dupThresh is how many acknowledgements that repeat another tell a loss to a sender without SACK
// (RFC 5681).
const dupThresh = 3

// Duplicate takes an acknowledgement that says nothing new at all: it has no data, no selective
// acknowledgements, and the same window. Three in a row tell a loss to a peer without SACK.
func (s *Sender) Duplicate(now time.Duration) {
	if s.flight == 0 || len(s.sacked) > 0 {
		return
	}
	if s.dups++; s.dups == dupThresh {
		s.holes, s.holesEnd = true, s.nxt
		s.detectLoss(now)
		s.settle()
	}
}
