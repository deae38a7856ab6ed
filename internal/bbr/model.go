package bbr

import (
	"math"
	"math/rand/v2"
	"time"
)

// The constants of the draft, with its names.
const (
	startupPacingGain = 2.77 // 4 ln 2: doubles the rate in each round
	startupCwndGain   = 2.0
	drainPacingGain   = 0.5
	cwndGain          = 2.0
	downPacingGain    = 0.90
	upPacingGain      = 1.25
	upCwndGain        = 2.25
	probeRTTCwndGain  = 0.5
	pacingMargin      = 0.01 // pacing is slower than the bandwidth by this fraction, so that a queue drains

	lossThresh      = 0.02 // fraction of a round
	beta            = 0.7  // multiplicative decrease
	headroom        = 0.15 // fraction of inflightHi that is left to others while cruising
	fullBwGrowth    = 1.25 // a round without such a growth of the bandwidth may mean that the pipe is full
	fullBwRounds    = 3    // the pipe is full after so many of these rounds
	drainRounds     = 5    // drain ends after so many rounds, in case the bandwidth was overestimated
	upGrowth        = 1.05 // a probe goes on as long as the bandwidth grows by this factor in a round
	lossRounds      = 2    // so many rounds after a probe, losses may still be its
	overshootRounds = 2    // so many rounds after drain, losses may still be those of startup
	standRounds     = 2    // the bandwidth counts as overestimated after so many rounds with a standing queue

	minPipePackets = 4
	initialPackets = 10 // RFC 6928

	minRTTFilter     = 10 * time.Second
	probeRTTInterval = 5 * time.Second
	probeRTTDuration = 200 * time.Millisecond
	ackFilterRounds  = 10 // length of each of the two windows of aggregation
)

// Thresholds that distinguish congestion from random loss, see the package comment.
const (
	heavyLoss  = 0.10                 // fraction of a round that means congestion at any round-trip time
	queueRTT   = 1.0 / 16             // a round-trip time that exceeds the minimum by this fraction shows a queue
	standRTT   = 1.0 / 8              // if even the lowest of a round exceeds it by this fraction, the queue stands
	queueNoise = 2 * time.Millisecond // variation of the round-trip time without a queue

	startupLosses = 6 // packets lost in a round before startup may end because of loss
)

// maxAggregation bounds the additional data in flight for aggregated acknowledgements, as a time at
// the bandwidth.
const maxAggregation = 30 * time.Millisecond

// state is a state of BBR's state machine.
type state uint8

const (
	startup       state = iota // doubles the rate in each round until the bandwidth no longer grows
	drain                      // drains the queue that startup has built
	probeBWDown                // sends below the bandwidth, to drain the queue that probeBWUp has built
	probeBWCruise              // sends at the bandwidth
	probeBWRefill              // refills the pipe for a round, before probeBWUp
	probeBWUp                  // sends above the bandwidth, to find out whether there is more
	probeRTT                   // keeps little in flight for a short time, to measure the minimum round-trip time
)

var stateNames = [...]string{"startup", "drain", "down", "cruise", "refill", "up", "probe-rtt"}

func (s state) String() string { return stateNames[s] }

// Model is the model of the path of one connection. New makes one.
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

	overshoot  int // remaining rounds in which losses may be those of startup
	cwnd       int
	priorCwnd  int // cwnd before probeRTT or a retransmission timeout, to be restored
	pacingRate float64
	conserving bool // between OnTimeout and OnRecovered
	now        time.Duration
}

// gains are the gains of the present state.
type gains struct{ pacing, cwndG float64 }

// round counts round trips. A round ends when a packet that was sent after its start is
// acknowledged.
type round struct {
	count int
	end   uint64 // the round ends when Delivered reaches it
	start bool   // the present sample has started a round
}

// bandwidth holds the measurements of the bottleneck, in bytes a second.
type bandwidth struct {
	max     [2]float64 // highest delivery rate of this probing cycle and of the one before
	full    float64    // full_bw: the rate when it last grew by fullBwGrowth
	rounds  int        // full_bw_count: rounds since then
	reached bool       // full_bw_reached: the pipe was full once
	now     bool       // full_bw_now: the pipe is full in the present probe
	latest  float64    // bw_latest: highest delivery rate of this round
}

// minRTT estimates the round-trip time without a queue.
type minRTT struct {
	min      time.Duration // 0: unknown
	at       time.Duration // when min was measured or confirmed
	probe    time.Duration // the minimum since probeAt, which decides when to probe again
	probeAt  time.Duration
	smoothed time.Duration // moving average
	low      time.Duration // the lowest of this round; 0: none yet
	done     time.Duration // when probeRTT may end; 0: too much is still in flight
	roundSet bool          // a round has started since done was set
}

// standing tracks a standing queue, one that exists during whole rounds.
type standing struct {
	rounds int     // consecutive rounds with the queue
	bw     float64 // the lowest bandwidth of these rounds
}

// aggregation measures how much more is acknowledged at once than the bandwidth explains, because
// acknowledgements are aggregated on the path.
type aggregation struct {
	start  time.Duration
	acked  int
	extra  [2]int // bytes: the maximum of this window of rounds and of the one before
	rounds int    // in this window
}

// New returns the model of an unknown path. mss is the payload of a full packet.
func New(mss int) *Model {
	m := &Model{mss: mss, cwnd: initialPackets * mss}
	m.bounds.reset()
	m.reno.init(m.cwnd)
	m.enterStartup()
	m.pacingRate = startupPacingGain * float64(m.cwnd) / time.Millisecond.Seconds()
	return m
}

// Cwnd returns how many bytes may be in flight.
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

	// Within a site the processors are the bottleneck, and larger batches save processor time. With
	// the usual quantum several fast connections were a tenth slower.
	siteRTT         = 20 * time.Millisecond
	siteQuantumTime = 2 * time.Millisecond
	siteMaxQuantum  = 128 << 10
)

// unpaced is a pacing rate so high that packets leave at once.
const unpaced = 1e12

// PacingRate returns how fast packets may leave, in bytes a second.
func (m *Model) PacingRate() float64 {
	if m.isShort() {
		return unpaced
	}
	return max(m.pacingRate, m.leastRate())
}

// leastRate returns the rate that sends the smallest window within a round-trip time, so that
// packets do not wait for longer after a bandwidth was measured too low.
func (m *Model) leastRate() float64 {
	rtt := m.rtt.smoothed
	if rtt == 0 {
		rtt = time.Second
	}
	return float64(minPipePackets*m.mss) / rtt.Seconds()
}

// Bandwidth returns the estimated bandwidth of the path in bytes a second, 0 if it is unknown.
func (m *Model) Bandwidth() float64 { return m.maxBW() }

// MinRTT returns the recent minimum of the round-trip time, 0 if it is unknown.
func (m *Model) MinRTT() time.Duration { return m.rtt.min }

// State returns the name of the present state, for logs and tests.
func (m *Model) State() string { return m.state.String() }

// SetMSS sets the payload of a full packet.
func (m *Model) SetMSS(mss int) { m.mss = mss }

// Handshake tells the round-trip time of the TCP handshake. It sets the first pacing rate, before
// there is an acknowledgement.
func (m *Model) Handshake(now, rtt time.Duration) {
	if rtt > 0 && m.rtt.min == 0 && m.round.count == 0 {
		m.pacingRate = startupPacingGain * float64(m.cwnd) / rtt.Seconds()
		m.rtt.smoothed = rtt
	}
}

// OnAck handles an acknowledgement.
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
		m.reno.cwnd = min(m.reno.cwnd, 2*m.cwnd) // in case the path becomes short
	}
}

func (m *Model) updateRound(s *Sample) {
	m.round.start = s.Acked > 0 && s.PriorDelivered >= m.round.end
	if m.round.start {
		m.round.end = s.Delivered
		m.round.count++
	}
}

// maxBW returns the highest delivery rate of the last two probing cycles.
func (m *Model) maxBW() float64 { return max(m.bw.max[0], m.bw.max[1]) }

// boundedBW returns the bandwidth, limited by bwLo.
func (m *Model) boundedBW() float64 { return min(m.maxBW(), m.bounds.bwLo) }

func (m *Model) updateBandwidth(s *Sample) {
	rate := s.rate()
	m.bw.latest = max(m.bw.latest, rate)
	m.bounds.latest = max(m.bounds.latest, int(s.Delivered-s.PriorDelivered))
	if rate >= m.maxBW() || !s.AppLimited {
		m.bw.max[0] = max(m.bw.max[0], rate)
	}
}

// advanceFilter starts another probing cycle in bw.max. It drops the maximum of the cycle before
// last.
func (m *Model) advanceFilter() {
	if m.bw.max[0] == 0 {
		return // nothing was measured in the present cycle
	}
	m.bw.max[1], m.bw.max[0] = m.bw.max[0], 0
}

// bdp returns the bandwidth-delay product times gain, in bytes, and the initial window if it is
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

// setPacingRate follows the bandwidth. Before the pipe was full once, the rate only grows, except
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

// Quantum returns how many bytes should be sent at once: what the rate allows in quantumTime, which
// is long enough for timers.
func (m *Model) Quantum() int {
	d, most := quantumTime, maxQuantum
	if m.withinSite() {
		d, most = siteQuantumTime, siteMaxQuantum
	}
	return max(2*m.mss, min(int(m.PacingRate()*d.Seconds()), most))
}

// Burst returns how many bytes may leave ahead of the pacing rate: a quantum within a site, and
// none on longer paths, because the queue of a bottleneck may be too short for bursts.
func (m *Model) Burst() int {
	if m.withinSite() {
		return m.Quantum()
	}
	return 0
}

func (m *Model) withinSite() bool { return m.rtt.min < siteRTT }

// maxInFlight returns how much in flight keeps the path busy: the bandwidth-delay product times
// gain and what aggregated acknowledgements hide, but at least three quanta.
func (m *Model) maxInFlight(gain float64) int {
	n := m.bdp(m.boundedBW(), gain) + max(m.agg.extra[0], m.agg.extra[1])
	return max(n, 3*m.Quantum(), minPipePackets*m.mss) + m.upSlack()
}

// upSlack returns two packets while probing, so that a small window can grow.
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

// OnTimeout tells that the retransmission timer has expired and everything in flight counts as
// lost. One packet is sent, and the window doubles in each round trip until OnRecovered.
func (m *Model) OnTimeout(inFlight int) {
	if !m.conserving && m.state != probeRTT {
		m.priorCwnd = m.cwnd
	}
	m.conserving = true
	m.cwnd = inFlight + m.mss
	m.reno.onTimeout(m.mss)
}

// OnRecovered tells that everything that was in flight at OnTimeout is acknowledged. It restores
// the window.
func (m *Model) OnRecovered() {
	if m.conserving {
		m.conserving = false
		m.cwnd = max(m.cwnd, m.priorCwnd)
	}
}

// OnIdle tells that sending resumes after a time in which nothing was in flight.
func (m *Model) OnIdle(now time.Duration) {
	m.agg.start, m.agg.acked = now, 0
	if m.state == probeRTT && m.rtt.done != 0 && now > m.rtt.done {
		m.exitProbeRTT(now)
	}
	if m.state >= probeBWDown && m.state <= probeBWUp {
		m.pacingRate = m.boundedBW() * (1 - pacingMargin)
	}
}

// PathChanged tells that packets take another path from now on. It resets the model.
func (m *Model) PathChanged() {
	cwnd, rate := m.cwnd, m.pacingRate
	*m = *New(m.mss)
	// Half of the rate of the old path is the best guess for the start.
	m.cwnd, m.pacingRate = max(m.cwnd, cwnd/2), max(rate/2, 1)
}

func jitter(d time.Duration) time.Duration { return time.Duration(rand.Int64N(int64(d))) }
