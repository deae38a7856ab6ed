package snoop

import "time"

// timerKind is what happens when the timer expires.
type timerKind uint8

const (
	retransmit timerKind = iota // everything in flight counts as lost (RFC 6298)
	tailProbe                   // a packet is sent to find out whether the last ones were lost (RFC 8985, section 7)
	persist                     // the peer is asked for its window (RFC 9293, section 3.8.6.1)
)

// timer is when a Sender has something to do although nothing has come.
type timer struct {
	kind    timerKind
	due     time.Duration // of kind; 0: not set
	reorder time.Duration // when more packets may be lost; 0: not set
	at      time.Duration // the earlier of these

	recovering bool   // after the expiry of the retransmission timer
	recovered  uint32 // until this is acknowledged
}

// probe is the state of tail loss probes.
type probe struct {
	due  bool   // one is to be sent now
	sent bool   // one is on its way: no further one before it is answered
	end  uint32 // what it would be answered by
}

// arm sets the timer anew, as it is with every acknowledgement.
func (s *Sender) arm(now time.Duration) {
	switch {
	case s.pkts.count == 0:
		s.timer.due = 0
	case s.flight > 0 && s.backlog == 0 && len(s.sacked) == 0 && !s.probe.sent && s.rtt.backoff == 0 && s.rtt.smoothed > 0:
		s.timer.kind = tailProbe
		s.timer.due = now + min(s.rtt.probe(s.flight <= s.mss), s.rtt.timeout())
	default:
		s.timer.kind, s.timer.due = retransmit, now+s.rtt.timeout()
	}
	s.settle()
}

// settle finds the earlier time.
func (s *Sender) settle() {
	s.timer.at = s.timer.due
	if r := s.timer.reorder; r != 0 && (s.timer.at == 0 || r < s.timer.at) {
		s.timer.at = r
	}
}

// Expire does what is due by now. Next may have something to send afterwards. It reports true if
// the peer is to be asked for its window, which is done by a packet without data below the window.
func (s *Sender) Expire(now time.Duration) (ask bool) {
	defer s.settle()
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
		ask = true
	}
	return ask
}

// sendProbe sends new data if there is any, or else the last packet again.
func (s *Sender) sendProbe(now time.Duration) (Outgoing, bool) {
	var o Outgoing
	switch {
	case s.nxt != s.end:
		o = s.sendNew(now)
	case s.flying.head == none:
		return o, false
	default:
		n := s.pkts.number(s.pkts.count - 1)
		p := s.pkts.at(n)
		if p.status != inFlight { // it has arrived meanwhile, and others have not
			n = s.flying.tail
			p = s.pkts.at(n)
		}
		s.pkts.unlink(&s.flying, n)
		s.flight -= int(p.length)
		s.transmit(now, n, p)
		s.stats.Repeated++
		o = Outgoing{Seq: p.seq, Len: int(p.length), Fin: s.fin && p.end() == s.end, Repeated: true}
	}
	s.probe.sent, s.probe.end = true, s.nxt
	return o, true
}

// timeout takes everything in flight for lost. That says nothing about congestion: the path may not
// have worked at all.
func (s *Sender) timeout(now time.Duration) {
	s.stats.Timeouts++
	s.rtt.backoff++
	s.probe = probe{}
	if s.pkts.count > 0 && s.pkts.at(s.pkts.first).status == arrived {
		s.renege()
	}
	for n := s.flying.head; n != none; n = s.flying.head {
		s.giveUp(n, s.pkts.at(n))
	}
	s.sortLost()
	s.timer.recovering, s.timer.recovered = true, s.nxt
	s.model.OnTimeout(s.flight)
	s.pace.next = min(s.pace.next, now)
	s.timer.due = now + s.rtt.timeout()
}

// sortLost puts what is lost in the order of the stream: the first packet is what the peer waits
// for.
func (s *Sender) sortLost() {
	s.toSend = newList()
	for n := s.pkts.first; n != s.pkts.last(); n = s.pkts.next(n) {
		if s.pkts.at(n).status == lost {
			s.pkts.append(&s.toSend, n)
		}
	}
}

// renege takes selective acknowledgements back. The oldest packet was acknowledged selectively and
// not cumulatively, so the peer has given up what it had (RFC 2018, section 8).
func (s *Sender) renege() {
	s.sacked = s.sacked[:0]
	for n := s.pkts.first; n != s.pkts.last(); n = s.pkts.next(n) {
		if p := s.pkts.at(n); p.status == arrived {
			p.status = lost
			s.backlog += int(p.length)
		}
	}
}

// Closed tells that the peer's window is closed and something waits for it to open: the peer is
// asked now and then, since the packet that opens it may be lost. Open tells that it is not closed,
// or that nothing waits.
func (s *Sender) Closed(now time.Duration) {
	if s.pkts.count > 0 || s.timer.kind == persist && s.timer.due != 0 {
		return
	}
	s.timer.kind, s.timer.due = persist, now+s.rtt.timeout()
	s.settle()
}

// Open ends what Closed began.
func (s *Sender) Open() {
	if s.timer.kind == persist && s.timer.due != 0 {
		s.timer.due, s.rtt.backoff = 0, 0
		s.settle()
	}
}

// Recut forgets what was sent and not acknowledged, to send it again in packets of another size:
// the path takes no longer ones. What the peer has of it already it throws away.
func (s *Sender) Recut(now time.Duration, mss int) {
	s.mss = mss
	s.model.SetMSS(mss)
	s.pkts = packets{}
	s.flying, s.toSend = newList(), newList()
	s.sacked = s.sacked[:0]
	s.flight, s.backlog = 0, 0
	s.nxt = s.una
	s.probe, s.rack.any, s.timer.reorder = probe{}, false, 0
	s.arm(now)
}
