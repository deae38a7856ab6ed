package bbr

import (
	"math"
	"math/rand/v2"
	"time"
)

// The constants of the draft, in its words.
const (
	startupPacingGain = 2.77 // 4 ln 2: doubles the rate each round
	startupCwndGain   = 2.0
	drainPacingGain   = 0.5
	cwndGain          = 2.0
	downPacingGain    = 0.90
	upPacingGain      = 1.25
	upCwndGain        = 2.25
	probeRTTCwndGain  = 0.5
	pacingMargin      = 0.01 // pace a little slower than the bandwidth, so that a queue drains

	lossThresh      = 0.02 // of the packets of a round
	beta            = 0.7  // multiplicative decrease
	headroom        = 0.15 // left to others while cruising
	fullBwGrowth    = 1.25 // in a round, or the pipe may be full
	fullBwRounds    = 3
	drainRounds     = 5    // after which the queue is as short as it gets: the bandwidth may have been overestimated
	upGrowth        = 1.05 // in a round of probing, or there is no more
	lossRounds      = 2    // in which losses of a probe are found after its end
	overshootRounds = 2    // after drain, in which losses of startup are found
	standRounds     = 2    // with a standing queue, after which the bandwidth counts as overestimated

	minPipePackets = 4
	initialPackets = 10 // RFC 6928

	minRTTFilter     = 10 * time.Second
	probeRTTInterval = 5 * time.Second
	probeRTTDuration = 200 * time.Millisecond
	ackFilterRounds  = 10 // two windows of it
)

// What tells congestion from random loss; see the package's comment.
const (
	heavyLoss  = 0.10                 // of the packets of a round: congestion whatever the round-trip time
	queueRTT   = 1.0 / 16             // of the minimum: a round-trip time that exceeds it by more shows a queue
	standRTT   = 1.0 / 8              // likewise, if even the lowest of a round does: the queue stands
	queueNoise = 2 * time.Millisecond // by which round-trip times differ without a queue

	startupLosses = 6 // packets lost in a round before start-up may end because of loss
)

// maxAggregation bounds the data that may be in flight because acknowledgements come in bunches.
const maxAggregation = 30 * time.Millisecond

// state is what the model does at present.
type state uint8

const (
	startup       state = iota // doubles the rate each round until the bandwidth no longer grows
	drain                      // lets the queue that startup made drain
	probeBWDown                // sends less than the bandwidth: drains what probeBWUp queued
	probeBWCruise              // sends at the bandwidth
	probeBWRefill              // fills the pipe for a round, so that probeBWUp measures the path and not itself
	probeBWUp                  // sends more than the bandwidth, to find out whether there is more
	probeRTT                   // has little in flight for a moment, to measure the round-trip time without a queue
)

var stateNames = [...]string{"startup", "drain", "down", "cruise", "refill", "up", "probe-rtt"}

func (s state) String() string { return stateNames[s] }

// Model is the model of one connection's path. Make it with New.
type Model struct {
	mss   int
	state state

	gains
	round  round
	bw     bandwidth
	rtt    minRTT
	queue  standing
	loss   losses
	agg    aggregation
	cycle  cycle
	bounds bounds
	reno   reno

	overshoot  int // rounds in which losses are still those of startup
	cwnd       int
	priorCwnd  int // before probeRTT or a retransmission timeout, to return to
	pacingRate float64
	conserving bool // after OnTimeout, until OnRecovered
	now        time.Duration
}

// gains are those of the present state.
type gains struct{ pacing, cwndG float64 }

// round counts round trips: one ends when a packet that was sent after its beginning is
// acknowledged.
type round struct {
	count int
	end   uint64 // Delivered by which it ends
	start bool   // the present sample began one
}

// bandwidth is what is known of the bottleneck.
type bandwidth struct {
	max     [2]float64 // bytes a second: highest rate of this probing cycle and of the one before
	full    float64    // when it last grew
	rounds  int        // since then
	reached bool       // the pipe has been full once
	now     bool       // the pipe is full in this probing
	latest  float64    // highest rate of this round
}

// minRTT is the round-trip time without a queue, as far as it was seen.
type minRTT struct {
	min      time.Duration // 0: unknown
	at       time.Duration // when it was measured
	probe    time.Duration // the minimum since probeAt, which decides when to probe again
	probeAt  time.Duration
	smoothed time.Duration // recent round-trip times
	low      time.Duration // the lowest of this round; 0: none yet
	done     time.Duration // when probeRTT may end; 0: in flight is not low enough yet
	roundSet bool          // a round has begun since done was set
}

// standing is a queue that was there all the time.
type standing struct {
	rounds int     // in a row
	bw     float64 // the lowest bandwidth of these rounds
}

// aggregation is how much more than the bandwidth arrives at once, since acknowledgements come in
// bunches.
type aggregation struct {
	start  time.Duration
	acked  int
	extra  [2]int // bytes: the most in this window of rounds, and in the one before
	rounds int    // of this window
}

// New returns the model of a path of which nothing is known. The mss is the payload of a full
// packet.
func New(mss int) *Model {
	m := &Model{mss: mss, cwnd: initialPackets * mss}
	m.bounds.reset()
	m.reno.init(m.cwnd)
	m.enterStartup()
	m.pacingRate = startupPacingGain * float64(m.cwnd) / time.Millisecond.Seconds()
	return m
}

// Cwnd is how many bytes may be in flight.
func (m *Model) Cwnd() int {
	if m.isShort() {
		return m.reno.cwnd
	}
	return m.cwnd
}

const (
	// quantumTime is how long a quantum takes at the pacing rate (draft, section 5.6.3).
	quantumTime = time.Millisecond
	maxQuantum  = 64 << 10

	// Within a site processors are the limit, and larger batches save their time: with the usual
	// quantum several fast connections carry a tenth less.
	siteRTT         = 20 * time.Millisecond
	siteQuantumTime = 2 * time.Millisecond
	siteMaxQuantum  = 128 << 10
)

// unpaced is a rate at which packets leave as soon as they can.
const unpaced = 1e12

// PacingRate is how fast packets may leave, in bytes a second.
func (m *Model) PacingRate() float64 {
	if m.isShort() {
		return unpaced
	}
	return max(m.pacingRate, m.leastRate())
}

// leastRate sends the smallest window in a round-trip time: however low the bandwidth was measured,
// the next packets do not wait for longer.
func (m *Model) leastRate() float64 {
	rtt := m.rtt.smoothed
	if rtt == 0 {
		rtt = time.Second
	}
	return float64(minPipePackets*m.mss) / rtt.Seconds()
}

// Bandwidth is the estimated bandwidth of the path in bytes a second, 0 if it is unknown.
func (m *Model) Bandwidth() float64 { return m.maxBW() }

// MinRTT is the lowest round-trip time of late, 0 if it is unknown.
func (m *Model) MinRTT() time.Duration { return m.rtt.min }

// State names what the model does at present, for logs and tests.
func (m *Model) State() string { return m.state.String() }

// SetMSS tells that full packets have another size from now on.
func (m *Model) SetMSS(mss int) { m.mss = mss }

// Handshake tells the round-trip time of the handshake, which is all that is known before the first
// acknowledgement.
func (m *Model) Handshake(now, rtt time.Duration) {
	if rtt > 0 && m.rtt.min == 0 && m.round.count == 0 {
		m.pacingRate = startupPacingGain * float64(m.cwnd) / rtt.Seconds()
		m.rtt.smoothed = rtt
	}
}

// OnAck takes an acknowledgement.
func (m *Model) OnAck(s *Sample) {
	m.now = s.Now
	m.updateRound(s)
	m.loss.add(s)
	m.updateRTT(s)
	m.reno.onAck(s, m.mss)
	m.updateBandwidth(s)
	m.updateAggregation(s)
	if m.round.start {
		m.checkQueue(s)
		m.checkFullPipe(s)
		m.adaptLowerBounds()
	}
	m.checkStartupDone()
	m.checkDrainDone(s)
	m.updateCycle(s)
	m.checkProbeRTT(s)
	if m.round.start {
		m.loss.nextRound()
		m.rtt.low = s.RTT
		m.bw.latest, m.bounds.latest = s.rate(), int(s.Delivered-s.PriorDelivered)
	}
	m.setPacingRate()
	m.setCwnd(s)
	if !m.isShort() {
		m.reno.cwnd = min(m.reno.cwnd, 2*m.cwnd) // it takes over where the round-trip time falls
	}
}

func (m *Model) updateRound(s *Sample) {
	m.round.start = s.Acked > 0 && s.PriorDelivered >= m.round.end
	if m.round.start {
		m.round.end = s.Delivered
		m.round.count++
	}
}

// maxBW is the highest delivery rate of the last two probing cycles.
func (m *Model) maxBW() float64 { return max(m.bw.max[0], m.bw.max[1]) }

// boundedBW is what is sent at: the bandwidth, or what congestion has left of it.
func (m *Model) boundedBW() float64 { return min(m.maxBW(), m.bounds.bwLo) }

func (m *Model) updateBandwidth(s *Sample) {
	rate := s.rate()
	m.bw.latest = max(m.bw.latest, rate)
	m.bounds.latest = max(m.bounds.latest, int(s.Delivered-s.PriorDelivered))
	if rate >= m.maxBW() || !s.AppLimited {
		m.bw.max[0] = max(m.bw.max[0], rate)
	}
}

// advanceFilter begins another probing cycle: rates of the one before last are forgotten.
func (m *Model) advanceFilter() {
	if m.bw.max[0] == 0 {
		return // nothing was measured in this one
	}
	m.bw.max[1], m.bw.max[0] = m.bw.max[0], 0
}

// bdp is the bandwidth-delay product, times gain, in bytes. Without a round-trip time it is
// unknown.
func (m *Model) bdp(bw, gain float64) int {
	if m.rtt.min == 0 || bw == 0 {
		return initialPackets * m.mss
	}
	return int(gain * bw * m.rtt.min.Seconds())
}

// updateAggregation measures how much more is acknowledged at once than the bandwidth explains.
func (m *Model) updateAggregation(s *Sample) {
	bw := m.maxBW()
	if bw == 0 {
		return
	}
	if m.round.start {
		if m.agg.rounds++; m.agg.rounds > ackFilterRounds {
			m.agg.extra[1], m.agg.extra[0], m.agg.rounds = m.agg.extra[0], 0, 0
		}
	}
	expected := bw * (s.Now - m.agg.start).Seconds()
	if float64(m.agg.acked) <= expected {
		m.agg.start, m.agg.acked, expected = s.Now, 0, 0
	}
	m.agg.acked += s.Acked
	extra := min(m.agg.acked-int(expected), m.cwnd, int(bw*maxAggregation.Seconds()))
	m.agg.extra[0] = max(m.agg.extra[0], extra)
}

// setPacingRate follows the bandwidth. Before the pipe was full once the rate only grows, except
// that the first round-trip time replaces the guess of New.
func (m *Model) setPacingRate() {
	rate := m.gains.pacing * m.boundedBW() * (1 - pacingMargin)
	if m.round.count <= 1 && m.rtt.min > 0 {
		m.pacingRate = startupPacingGain * float64(m.cwnd) / m.rtt.smoothed.Seconds()
	}
	if rate > 0 && (m.bw.reached || rate > m.pacingRate) {
		m.pacingRate = rate
	}
}

// Quantum is how many bytes are best sent at once: what the rate gives in quantumTime, which timers
// can keep.
func (m *Model) Quantum() int {
	d, most := quantumTime, maxQuantum
	if m.withinSite() {
		d, most = siteQuantumTime, siteMaxQuantum
	}
	return max(2*m.mss, min(int(m.PacingRate()*d.Seconds()), most))
}

// Burst is how many bytes may leave together before their time has come: a quantum within a site,
// and nothing on longer paths, where the queue of a bottleneck may be too short for bursts.
func (m *Model) Burst() int {
	if m.withinSite() {
		return m.Quantum()
	}
	return 0
}

func (m *Model) withinSite() bool { return m.rtt.min < siteRTT }

// maxInFlight is how much in flight keeps the path busy: the bandwidth-delay product, what bunched
// acknowledgements hide, and what is sent at once here and by the receiver.
func (m *Model) maxInFlight(gain float64) int {
	n := m.bdp(m.boundedBW(), gain) + max(m.agg.extra[0], m.agg.extra[1])
	return max(n, 3*m.Quantum(), minPipePackets*m.mss) + m.upSlack()
}

// upSlack lets probing go beyond a window that is a few packets only.
func (m *Model) upSlack() int {
	if m.state == probeBWUp {
		return 2 * m.mss
	}
	return 0
}

func (m *Model) setCwnd(s *Sample) {
	target := m.maxInFlight(m.gains.cwndG)
	switch {
	case m.conserving:
		m.cwnd = min(m.cwnd+s.Acked, max(target, m.priorCwnd))
		return
	case m.bw.reached:
		m.cwnd = min(m.cwnd+s.Acked, target)
	case m.cwnd < target || int(s.Delivered) < initialPackets*m.mss:
		m.cwnd += s.Acked
	}
	m.cwnd = max(m.cwnd, minPipePackets*m.mss)
	m.boundCwnd()
}

// boundCwnd applies the limits that congestion and the present state have set.
func (m *Model) boundCwnd() {
	limit := math.MaxInt
	switch m.state {
	case probeRTT:
		limit = max(m.bdp(m.boundedBW(), probeRTTCwndGain), minPipePackets*m.mss)
	case probeBWCruise, probeBWDown:
		limit = m.bounds.withHeadroom(m.mss)
	case probeBWRefill, probeBWUp, drain:
		limit = m.bounds.inflightHi
	}
	limit = min(limit, m.bounds.inflightLo)
	m.cwnd = min(m.cwnd, max(limit, minPipePackets*m.mss))
}

// OnTimeout tells that the retransmission timer has expired: everything in flight counts as lost.
// One packet is sent, and the window doubles with each round trip until OnRecovered.
func (m *Model) OnTimeout(inFlight int) {
	if !m.conserving && m.state != probeRTT {
		m.priorCwnd = m.cwnd
	}
	m.conserving = true
	m.cwnd = inFlight + m.mss
	m.reno.onTimeout(m.mss)
}

// OnRecovered tells that everything is acknowledged that was in flight at OnTimeout: the window is
// as before.
func (m *Model) OnRecovered() {
	if m.conserving {
		m.conserving = false
		m.cwnd = max(m.cwnd, m.priorCwnd)
	}
}

// OnIdle tells that something is sent after a time in which nothing was in flight.
func (m *Model) OnIdle(now time.Duration) {
	m.agg.start, m.agg.acked = now, 0
	if m.state == probeRTT && m.rtt.done != 0 && now > m.rtt.done {
		m.exitProbeRTT(now)
	}
	if m.state >= probeBWDown && m.state <= probeBWUp {
		m.pacingRate = m.boundedBW() * (1 - pacingMargin)
	}
}

// PathChanged forgets the model, because packets take another path now.
func (m *Model) PathChanged() {
	cwnd, rate := m.cwnd, m.pacingRate
	*m = *New(m.mss)
	// What the old path carried is the best guess for a start.
	m.cwnd, m.pacingRate = max(m.cwnd, cwnd/2), max(rate/2, 1)
}

func jitter(d time.Duration) time.Duration { return time.Duration(rand.Int64N(int64(d))) }
