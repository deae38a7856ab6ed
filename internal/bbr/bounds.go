package bbr

import (
	"math"
	"time"
)

// losses counts the losses of the present round.
type losses struct {
	lost  int           // bytes
	acked int           // bytes
	rtt   time.Duration // the highest round-trip time
	any   bool          // there were losses in this round
}

func (l *losses) add(s *Sample) {
	l.lost += s.Lost
	l.acked += s.Acked
	l.any = l.any || s.Lost > 0
}

func (l *losses) nextRound() { *l = losses{} }

func (l *losses) packets(mss int) int { return l.lost / mss }

// fraction returns the fraction of bytes that were lost.
func (l *losses) fraction() float64 {
	if l.lost == 0 {
		return 0
	}
	return float64(l.lost) / float64(l.lost+l.acked)
}

// congested reports whether the losses of this round come from a full queue.
func (m *Model) congested() bool {
	f := m.loss.fraction()
	return f > heavyLoss || f > lossThresh && m.queued(m.loss.rtt)
}

// queued reports whether a round-trip time shows a queue.
func (m *Model) queued(rtt time.Duration) bool {
	return rtt > m.rtt.min+time.Duration(float64(m.rtt.min)*queueRTT)+queueNoise
}

// bounds are the limits that congestion has set. inflightHi is the long-term limit: what was in
// flight when a probe met congestion. inflightLo and bwLo are short-term limits, until the next
// probe.
type bounds struct {
	inflightHi int
	inflightLo int
	bwLo       float64
	latest     int // inflight_latest: the most that was delivered within a round trip, in this round
}

func (b *bounds) reset() {
	b.inflightHi = math.MaxInt
	b.resetLo()
}

func (b *bounds) resetLo() { b.inflightLo, b.bwLo = math.MaxInt, math.Inf(1) }

// withHeadroom returns inflightHi less the headroom for others that share the bottleneck.
func (b *bounds) withHeadroom(mss int) int {
	if b.inflightHi == math.MaxInt {
		return math.MaxInt
	}
	return max(b.inflightHi-max(mss, int(headroom*float64(b.inflightHi))), minPipePackets*mss)
}

func (m *Model) resetCongestion() {
	m.loss.nextRound()
	m.bw.latest, m.bounds.latest = 0, 0
}

// adaptLowerBounds lowers the short-term limits after a congested round. Losses caused by startup
// or by a probe lower inflightHi instead.
func (m *Model) adaptLowerBounds() {
	if m.state < probeBWDown || m.state == probeBWUp || m.state == probeBWRefill || !m.congested() {
		return
	}
	if m.overshoot > 0 || m.cycle.probed > 0 {
		return
	}
	b := &m.bounds
	if math.IsInf(b.bwLo, 1) {
		b.bwLo = m.maxBW()
	}
	if b.inflightLo == math.MaxInt {
		b.inflightLo = m.cwnd
	}
	b.bwLo = max(m.bw.latest, beta*b.bwLo)
	b.inflightLo = max(b.latest, int(beta*float64(b.inflightLo)))
}

// OnLoss handles a packet that was found lost. A probe has reached the limit of the path if more
// than 2 % of what was in flight with the packet is lost and there is a queue, or if the loss is
// heavy.
func (m *Model) OnLoss(now time.Duration, l *Loss) {
	if m.cycle.probed == 0 {
		return
	}
	f := l.fraction()
	if f <= lossThresh || f <= heavyLoss && !m.queued(max(m.loss.rtt, m.rtt.smoothed)) {
		return
	}
	m.bounds.inflightHi = max(l.onset(), int(beta*float64(min(m.bdp(m.maxBW(), 1), m.cwnd))))
	m.cycle.probed = 0
	if m.state == probeBWUp || m.state == probeBWRefill {
		m.advanceFilter()
		m.enterDown(now)
	}
}

// adaptUpperBounds raises inflightHi as long as a probe meets no congestion.
func (m *Model) adaptUpperBounds(s *Sample) {
	b := &m.bounds
	if b.inflightHi == math.MaxInt || float64(s.LostSince) > lossThresh*float64(s.TxInFlight) {
		return
	}
	b.inflightHi = max(b.inflightHi, s.TxInFlight)
	if m.state == probeBWUp && s.CwndLimited && m.cwnd >= b.inflightHi-m.mss {
		m.cycle.held = true
		m.resetFullPipe(s.rate())
		m.raiseUpperBound(s)
	}
}

// raiseUpperBound raises inflightHi, by one packet in the first round and twice as fast in each
// further one.
func (m *Model) raiseUpperBound(s *Sample) {
	c := &m.cycle
	c.upAcks += s.Acked
	if c.upStep > 0 && c.upAcks >= c.upStep {
		n := c.upAcks / c.upStep
		c.upAcks -= n * c.upStep
		m.bounds.inflightHi += n * m.mss
	}
	if m.round.start {
		m.raiseSlope()
	}
}

func (m *Model) raiseSlope() {
	c := &m.cycle
	growth := m.mss << min(c.grows, 30)
	c.grows++
	c.upStep = max(m.cwnd*m.mss/max(growth, 1), 1)
}
