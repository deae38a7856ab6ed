package snoop

import (
	"time"

	"ginnel/internal/bbr"
)

// Timeouts of RFC 6298 and RFC 8985.
const (
	initialRTO = time.Second
	minRTO     = 200 * time.Millisecond
	maxRTO     = 8 * time.Second // soon enough after an outage of the path

	minProbe = 2 * time.Millisecond
	ackDelay = 50 * time.Millisecond // how long a peer may hold the acknowledgement of a single packet
)

// Sender sends the data of one connection. Make it with New.
type Sender struct {
	mss   int
	model *bbr.Model

	una uint32 // SND.UNA: the oldest sequence number that is not acknowledged
	nxt uint32 // the next to be sent for the first time
	max uint32 // the first that was never sent: above nxt after Recut
	end uint32 // the end of what TCP has handed over
	fin bool   // the last one before end is a FIN

	pkts    packets
	flying  list   // in flight, by the time of sending
	toSend  list   // lost, by the time of sending
	sacked  blocks // above una
	flight  int    // bytes in flight
	backlog int    // bytes that are lost and not sent again yet

	rtt  roundTrip
	rate rate
	rack rack
	probe
	timer

	pace  pacer
	lost  int     // bytes found lost since the model was last told
	fresh []Block // of the block that is looked at: what is newly acknowledged

	// Of a peer without SACK.
	dups     int    // acknowledgements that repeat una
	holes    bool   // the oldest packet is lost: una has not moved, or not up to holesEnd
	holesEnd uint32 // what was sent when the loss was found

	stats Stats
}

// Stats counts what a Sender has done.
type Stats struct {
	Packets   uint64 // sent, repeated ones included
	Bytes     uint64 // of their payload
	Delivered uint64 // of these, acknowledged
	Lost      uint64 // packets found lost
	Repeated  uint64 // packets sent again
	Spurious  uint64 // of these, needlessly: the peer said that it had the packet already (RFC 2883)
	Timeouts  uint64 // expiries of the retransmission timer
}

// Add adds what another Sender has done.
func (s *Stats) Add(o Stats) {
	s.Packets += o.Packets
	s.Bytes += o.Bytes
	s.Delivered += o.Delivered
	s.Lost += o.Lost
	s.Repeated += o.Repeated
	s.Spurious += o.Spurious
	s.Timeouts += o.Timeouts
}

// New returns a Sender whose first byte has sequence number seq. The mss is the most payload of a
// packet.
func New(seq uint32, mss int) *Sender {
	s := &Sender{mss: mss, model: bbr.New(mss), una: seq, nxt: seq, max: seq, end: seq}
	s.flying, s.toSend = newList(), newList()
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

// Acked is SND.UNA.
func (s *Sender) Acked() uint32 { return s.una }

// Sent is SND.NXT: the first sequence number that is not sent yet.
func (s *Sender) Sent() uint32 { return s.max }

// MSS is the most payload of a packet.
func (s *Sender) MSS() int { return s.mss }

// Unsent is how many bytes were handed over and never sent.
func (s *Sender) Unsent() int { return int(s.end - s.nxt) }

// Missing is how many bytes are lost and not sent again yet.
func (s *Sender) Missing() int { return s.backlog }

// TimedOut reports whether the retransmission timer has expired several times since anything was
// acknowledged.
func (s *Sender) TimedOut() bool { return s.rtt.backoff > 2 }

// Idle reports whether everything that was handed over is acknowledged.
func (s *Sender) Idle() bool { return s.una == s.end }

// InFlight is how many bytes are in flight.
func (s *Sender) InFlight() int { return s.flight }

// Queue takes over n sequence numbers from seq on; fin says that the last one is a FIN. It reports
// false for what it has already: TCP has sent it again.
func (s *Sender) Queue(now time.Duration, seq uint32, n int, fin bool) bool {
	if seq != s.end {
		return false
	}
	if s.una == s.end && s.pkts.count == 0 {
		s.resume(now)
	}
	s.end += uint32(n)
	s.fin = fin
	return true
}

// PathChanged tells that packets take another path from now on: what was measured does not hold
// there. What has timed out on the old path is tried at once, not when its back-off ends.
func (s *Sender) PathChanged(now time.Duration) {
	s.model.PathChanged()
	s.rtt.min, s.rack.window, s.rtt.since = 0, 1, now
	s.Retry(now)
}

// Retry has what waits for the end of a back-off sent now: the path is back.
func (s *Sender) Retry(now time.Duration) {
	if s.rtt.backoff > 0 && s.timer.due != 0 {
		s.rtt.backoff, s.timer.due = 0, now
		s.settle()
	}
}

// resume is called before the first packet after a time in which nothing was in flight.
func (s *Sender) resume(now time.Duration) {
	s.rate.restart(now)
	s.model.OnIdle(now)
}

// Outgoing is a packet that is to be sent now.
type Outgoing struct {
	Seq      uint32
	Len      int // sequence numbers, of which a FIN has one
	Fin      bool
	Repeated bool // it was sent before
}

// Next returns the next packet to send now. It reports false if there is none, or none may be sent
// yet: see Wake. The packet counts as sent.
func (s *Sender) Next(now time.Duration) (Outgoing, bool) {
	if !s.pace.open(now) && !s.probe.due {
		return Outgoing{}, false
	}
	window := s.model.Cwnd()
	switch {
	case s.probe.due:
		s.probe.due = false
		return s.sendProbe(now)
	case s.toSend.head != none:
		n := s.toSend.head
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

// sendable reports whether there is a packet for which the congestion window has room.
func (s *Sender) sendable() bool {
	if s.toSend.head != none {
		return s.flight == 0 || s.flight+int(s.pkts.at(s.toSend.head).length) <= s.model.Cwnd()
	}
	return s.nxt != s.end && (s.flight == 0 || s.flight+min(s.mss, int(s.end-s.nxt)) <= s.model.Cwnd())
}

// Wake returns when Next or Expire has something to do if nothing else happens before; 0: never.
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
		length-- // a FIN travels alone: TCP has handed it over so
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
	s.pkts.unlink(&s.toSend, n)
	s.backlog -= int(p.length)
	s.transmit(now, n, p)
	s.stats.Repeated++
	return Outgoing{Seq: p.seq, Len: int(p.length), Fin: s.fin && p.end() == s.end, Repeated: true}
}

// transmit notes that a packet leaves.
func (s *Sender) transmit(now time.Duration, n uint32, p *packet) {
	if s.flight == 0 {
		s.rate.restart(now)
	}
	p.status = inFlight
	p.sends += 1 - p.sends/255
	p.sent = now
	s.flight += int(p.length)
	s.rate.stamp(p, s.flight)
	s.pkts.append(&s.flying, n)
	s.pace.sent(now, int(p.length), s.model)
	s.stats.Packets++
	s.stats.Bytes += uint64(p.length)
	if s.timer.due == 0 || s.timer.kind != retransmit {
		s.arm(now)
	}
}
