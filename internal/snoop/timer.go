package snoop

import "time"

// timerKind is what the expiry of the timer means.
type timerKind uint8

const (
	retransmit timerKind = iota // RTO: everything in flight counts as lost (RFC 6298)
	tailProbe                   // a tail loss probe is sent (RFC 8985, section 7)
	persist                     // a zero-window probe is sent (RFC 9293, section 3.8.6.1)
)

// timer holds the times at which a Sender has to act without a packet from the peer.
type timer struct {
	kind    timerKind
	due     time.Duration // of kind; 0: not set
	reorder time.Duration // when the reordering window of a packet ends; 0: not set
	at      time.Duration // the earlier of due and reorder; 0: neither is set

	rtoRecovery      bool   // the retransmission timer has expired, and rtoRecoveryPoint is not acknowledged yet
	rtoRecoveryPoint uint32 // nxt at the expiry
}

// probe is the state of tail loss probes.
type probe struct {
	due  bool   // a probe is to be sent now
	sent bool   // a probe is in flight; no further one is sent before end is acknowledged
	end  uint32 // nxt when the probe was sent
}

// arm restarts the timer, as every acknowledgement does.
func (s *Sender) arm(now time.Duration) {
	switch {
	case s.pkts.count == 0:
		s.timer.due = 0
	case s.flight > 0 && s.lostBytes == 0 && len(s.sacked) == 0 && !s.probe.sent &&
		s.rtt.backoff == 0 && s.rtt.smoothed > 0:
		s.timer.kind = tailProbe
		s.timer.due = now + min(s.rtt.probe(s.peerAckDelay()), s.rtt.timeout())
	default:
		s.timer.kind, s.timer.due = retransmit, now+s.rtt.timeout()
	}
	s.setEarliest()
}

// peerAckDelay returns how long the peer may delay the next acknowledgement. It does not delay that
// of a second packet.
func (s *Sender) peerAckDelay() time.Duration {
	if s.flight <= s.mss {
		return ackDelay
	}
	return 0
}

// setEarliest sets at.
func (s *Sender) setEarliest() {
	s.timer.at = s.timer.due
	if r := s.timer.reorder; r != 0 && (s.timer.at == 0 || r < s.timer.at) {
		s.timer.at = r
	}
}

// Expire handles the timers that are due at now. Next may have packets to send afterwards. It
// returns true if a zero-window probe has to be sent: a packet without data, below the window.
func (s *Sender) Expire(now time.Duration) (windowProbe bool) {
	defer s.setEarliest()
	if r := s.timer.reorder; r != 0 && r <= now {
		s.detectLoss(now)
	}
	if s.timer.due == 0 || s.timer.due > now {
		return false
	}
	switch s.timer.kind {
	case retransmit:
		s.timeout(now)
	case tailProbe:
		s.probe.due = true
		s.timer.kind, s.timer.due = retransmit, now+s.rtt.timeout()
	case persist:
		s.rtt.backoff++
		s.timer.due = now + s.rtt.timeout()
		windowProbe = true
	}
	return windowProbe
}

// sendProbe sends a tail loss probe: new data if there is any, otherwise the last packet again.
func (s *Sender) sendProbe(now time.Duration) (Outgoing, bool) {
	var o Outgoing
	switch {
	case s.nxt != s.end:
		o = s.sendNew(now)
	case s.flightList.head == none:
		return o, false
	default:
		n := s.pkts.number(s.pkts.count - 1)
		p := s.pkts.at(n)
		if p.status != inFlight { // the last packet has arrived, so probe with the last one in flight
			n = s.flightList.tail
			p = s.pkts.at(n)
		}
		s.pkts.unlink(&s.flightList, n)
		s.flight -= int(p.length)
		s.transmit(now, n, p)
		s.stats.Repeated++
		o = Outgoing{Seq: p.seq, Len: int(p.length), Fin: s.fin && p.end() == s.end, Repeated: true}
	}
	s.probe.sent, s.probe.end = true, s.nxt
	return o, true
}

// timeout marks everything in flight as lost. These losses are not reported to the model as
// congestion, because the path may have been down.
func (s *Sender) timeout(now time.Duration) {
	s.stats.Timeouts++
	s.rtt.backoff++
	s.probe = probe{}
	if s.pkts.count > 0 && s.pkts.at(s.pkts.first).status == arrived {
		s.renege()
	}
	for n := s.flightList.head; n != none; n = s.flightList.head {
		s.moveToLost(n, s.pkts.at(n))
	}
	s.sortLost()
	s.timer.rtoRecovery, s.timer.rtoRecoveryPoint = true, s.nxt
	s.model.OnTimeout(s.flight)
	s.pace.next = min(s.pace.next, now)
	s.timer.due = now + s.rtt.timeout()
}

// sortLost sorts lostList in the order of the stream, because the peer waits for the first packet.
func (s *Sender) sortLost() {
	s.lostList = newList()
	for n := s.pkts.first; n != s.pkts.last(); n = s.pkts.next(n) {
		if s.pkts.at(n).status == lost {
			s.pkts.append(&s.lostList, n)
		}
	}
}

// renege undoes all selective acknowledgements. The oldest packet was selectively but not
// cumulatively acknowledged, so the peer has discarded its out-of-order data (RFC 2018, section 8).
func (s *Sender) renege() {
	s.sacked = s.sacked[:0]
	for n := s.pkts.first; n != s.pkts.last(); n = s.pkts.next(n) {
		if p := s.pkts.at(n); p.status == arrived {
			p.status = lost
			s.lostBytes += int(p.length)
		}
	}
}

// Closed tells that the peer's window is closed and that data waits. It starts the persist timer,
// so that the peer is probed: the packet that opens the window may be lost.
func (s *Sender) Closed(now time.Duration) {
	if s.pkts.count > 0 || s.timer.kind == persist && s.timer.due != 0 {
		return
	}
	s.timer.kind, s.timer.due = persist, now+s.rtt.timeout()
	s.setEarliest()
}

// Open tells that the window is open or that no data waits. It stops the persist timer.
func (s *Sender) Open() {
	if s.timer.kind == persist && s.timer.due != 0 {
		s.timer.due, s.rtt.backoff = 0, 0
		s.setEarliest()
	}
}

// Recut makes everything that was sent and is not acknowledged unsent again, to send it in packets
// of another size, because the path MTU has changed. The peer discards what it already has.
func (s *Sender) Recut(now time.Duration, mss int) {
	s.mss = mss
	s.model.SetMSS(mss)
	s.pkts = packets{}
	s.flightList, s.lostList = newList(), newList()
	s.sacked = s.sacked[:0]
	s.flight, s.lostBytes = 0, 0
	s.nxt = s.una
	s.probe, s.rack.any, s.timer.reorder = probe{}, false, 0
	s.arm(now)
}
