package snoop

import (
	"time"

	"ginnel/internal/bbr"
)

// Timeouts of RFC 6298 and RFC 8985.
const (
	initialRTO = time.Second
	minRTO     = 200 * time.Millisecond
	maxRTO     = 8 * time.Second // low, so that sending resumes soon after an outage of the path

	minProbe = 2 * time.Millisecond
	ackDelay = 50 * time.Millisecond // how long a peer may delay the acknowledgement of a single packet
)

// Sender sends the data of one connection. Make it with New.
type Sender struct {
	mss   int
	model *bbr.Model

	sequence
	end uint32 // the end of the data that TCP has handed over

	pkts       packets
	flightList list   // packets in flight, in the order of sending
	lostList   list   // lost packets, in the order in which they are retransmitted
	sacked     blocks // selectively acknowledged, above una
	flight     int    // bytes in flight
	lostBytes  int    // bytes in lostList

	rtt  roundTrip
	rate rate
	rack rack
	probe
	timer

	pace      pacer
	newlyLost int     // bytes found lost since the last sample
	fresh     []Block // scratch space of ackSelective

	newReno

	stats Stats
}

// sequence is the send sequence space (RFC 9293, section 3.3.1).
type sequence struct {
	una uint32 // SND.UNA: the oldest sequence number that is not acknowledged
	nxt uint32 // the next to be sent for the first time
	max uint32 // the first one never sent; above nxt after Recut
	fin bool   // the last sequence number that TCP has handed over is a FIN
}

// newReno is the state of fast recovery for a peer without SACK (RFC 6582).
type newReno struct {
	dups          int    // duplicate acknowledgements in a row
	fastRecovery  bool   // the oldest packet is lost, until recoveryPoint is acknowledged
	recoveryPoint uint32 // nxt when the loss was detected
}

// Stats counts what a Sender has done.
type Stats struct {
	Packets   uint64 // sent, including retransmissions
	Bytes     uint64 // payload of these packets
	Delivered uint64 // bytes acknowledged
	Lost      uint64 // packets found lost
	Repeated  uint64 // packets retransmitted
	Spurious  uint64 // retransmissions of packets that had arrived, as the peer reports by D-SACK (RFC 2883)
	Timeouts  uint64 // expiries of the retransmission timer
}

// Add adds the counters of another Sender.
func (s *Stats) Add(o Stats) {
	s.Packets += o.Packets
	s.Bytes += o.Bytes
	s.Delivered += o.Delivered
	s.Lost += o.Lost
	s.Repeated += o.Repeated
	s.Spurious += o.Spurious
	s.Timeouts += o.Timeouts
}

// New returns a Sender whose first byte has sequence number seq. mss is the largest payload of a
// packet.
func New(seq uint32, mss int) *Sender {
	s := &Sender{mss: mss, model: bbr.New(mss), sequence: sequence{una: seq, nxt: seq, max: seq}, end: seq}
	s.flightList, s.lostList = newList(), newList()
	s.rack.init()
	return s
}

// Stats returns the counters so far.
func (s *Sender) Stats() Stats {
	stats := s.stats
	stats.Delivered = s.rate.delivered
	return stats
}

// Model returns the model of the path.
func (s *Sender) Model() *bbr.Model { return s.model }

// Acked returns SND.UNA: the oldest sequence number that is not acknowledged.
func (s *Sender) Acked() uint32 { return s.una }

// Sent returns SND.NXT: the first sequence number that was never sent.
func (s *Sender) Sent() uint32 { return s.max }

// MSS returns the largest payload of a packet.
func (s *Sender) MSS() int { return s.mss }

// Unsent returns how many sequence numbers are queued and not sent, or to be sent again after
// Recut.
func (s *Sender) Unsent() int { return int(s.end - s.nxt) }

// Missing returns how many bytes are lost and not retransmitted yet.
func (s *Sender) Missing() int { return s.lostBytes }

// TimedOut reports whether the retransmission timer has expired at least three times since the last
// acknowledgement.
func (s *Sender) TimedOut() bool { return s.rtt.backoff > 2 }

// Idle reports whether everything that was queued is acknowledged.
func (s *Sender) Idle() bool { return s.una == s.end }

// InFlight returns how many bytes are in flight.
func (s *Sender) InFlight() int { return s.flight }

// Segment is a range of sequence numbers that TCP hands over.
type Segment struct {
	Seq uint32
	Len int  // sequence numbers, of which a FIN takes one
	Fin bool // the last one is a FIN
}

// Queue queues g for sending. It returns false if g is not the next segment, because TCP has
// retransmitted.
func (s *Sender) Queue(now time.Duration, g Segment) bool {
	if g.Seq != s.end {
		return false
	}
	if s.una == s.end && s.pkts.count == 0 {
		s.resume(now)
	}
	s.end += uint32(g.Len)
	s.fin = g.Fin
	return true
}

// PathChanged tells that packets take another path from now on. It discards what was measured on
// the old path, and retries at once if the retransmission timer has backed off.
func (s *Sender) PathChanged(now time.Duration) {
	s.model.PathChanged()
	s.rtt.min, s.rack.window, s.rtt.since = 0, 1, now
	s.Retry(now)
}

// Retry ends the back-off of the retransmission timer and lets it expire now, because the path
// works again.
func (s *Sender) Retry(now time.Duration) {
	if s.rtt.backoff > 0 && s.timer.due != 0 {
		s.rtt.backoff, s.timer.due = 0, now
		s.setEarliest()
	}
}

// resume is called when data is queued after a time in which nothing was in flight.
func (s *Sender) resume(now time.Duration) {
	s.rate.restart(now)
	s.model.OnIdle(now)
}

// Outgoing is a packet that is to be sent now.
type Outgoing struct {
	Seq      uint32
	Len      int // sequence numbers, of which a FIN takes one
	Fin      bool
	Repeated bool // a retransmission
}

// Next returns the next packet to send now, and counts it as sent. It returns false if there is
// none, or if none may be sent before the time that Wake returns.
func (s *Sender) Next(now time.Duration) (Outgoing, bool) {
	if !s.pace.open(now) && !s.probe.due {
		return Outgoing{}, false
	}
	window := s.model.Cwnd()
	switch {
	case s.probe.due:
		s.probe.due = false
		return s.sendProbe(now)
	case s.lostList.head != none:
		n := s.lostList.head
		if s.flight > 0 && s.flight+int(s.pkts.at(n).length) > window {
			s.rate.limited = true
			return Outgoing{}, false
		}
		return s.sendAgain(now, n), true
	case s.nxt == s.end:
		s.rate.markIdle(s.flight)
		return Outgoing{}, false
	case s.flight > 0 && s.flight+min(s.mss, int(s.end-s.nxt)) > window:
		s.rate.limited = true
		return Outgoing{}, false
	}
	return s.sendNew(now), true
}

// Ready reports whether Next would return a packet.
func (s *Sender) Ready(now time.Duration) bool {
	if s.probe.due {
		return true
	}
	if !s.pace.open(now) {
		return false
	}
	return s.sendable()
}

// sendable reports whether there is a packet that fits into the congestion window.
func (s *Sender) sendable() bool {
	if s.lostList.head != none {
		return s.flight == 0 || s.flight+int(s.pkts.at(s.lostList.head).length) <= s.model.Cwnd()
	}
	return s.nxt != s.end && (s.flight == 0 || s.flight+min(s.mss, int(s.end-s.nxt)) <= s.model.Cwnd())
}

// Wake returns when Next or Expire has to be called, unless another event comes before; 0: never.
func (s *Sender) Wake() time.Duration {
	at := s.timer.at
	if s.sendable() && (at == 0 || s.pace.next < at) {
		at = max(s.pace.next, 1)
	}
	return at
}

func (s *Sender) sendNew(now time.Duration) Outgoing {
	length := min(s.mss, int(s.end-s.nxt))
	if s.fin && length > 1 && length == int(s.end-s.nxt) {
		length-- // the FIN gets a packet of its own, as TCP has handed it over
	}
	n, p := s.pkts.push()
	*p = packet{seq: s.nxt, length: uint16(length)}
	s.nxt += uint32(length)
	if after(s.nxt, s.max) {
		s.max = s.nxt
	}
	s.transmit(now, n, p)
	return Outgoing{Seq: p.seq, Len: length, Fin: s.fin && s.nxt == s.end}
}

func (s *Sender) sendAgain(now time.Duration, n uint32) Outgoing {
	p := s.pkts.at(n)
	s.pkts.unlink(&s.lostList, n)
	s.lostBytes -= int(p.length)
	s.transmit(now, n, p)
	s.stats.Repeated++
	return Outgoing{Seq: p.seq, Len: int(p.length), Fin: s.fin && p.end() == s.end, Repeated: true}
}

// transmit records that a packet is sent.
func (s *Sender) transmit(now time.Duration, n uint32, p *packet) {
	if s.flight == 0 {
		s.rate.restart(now)
	}
	p.status = inFlight
	p.sends += 1 - p.sends/255
	p.sent = now
	s.flight += int(p.length)
	s.rate.stamp(p, s.flight)
	s.pkts.append(&s.flightList, n)
	s.pace.sent(now, int(p.length), s.model)
	s.stats.Packets++
	s.stats.Bytes += uint64(p.length)
	if s.timer.due == 0 || s.timer.kind != retransmit {
		s.arm(now)
	}
}
