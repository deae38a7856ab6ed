package bbr

import "time"

func (m *Model) enterStartup() {
	m.state, m.gains = startup, gains{startupPacingGain, startupCwndGain}
}

// checkFullPipe detects that the pipe is full: the bandwidth has not grown by a quarter in three
// rounds. Application-limited rounds do not count, unless a queue stood, which would have drained
// if the path could carry more.
func (m *Model) checkFullPipe(s *Sample) {
	if m.bw.now || s.AppLimited && m.queue.rounds == 0 {
		return
	}
	if m.bw.latest >= m.bw.full*fullBwGrowth {
		m.resetFullPipe(m.bw.latest)
		return
	}
	m.bw.rounds++
	if m.bw.now = m.bw.rounds >= fullBwRounds; m.bw.now {
		m.bw.reached = true
	}
}

func (m *Model) resetFullPipe(bw float64) { m.bw.full, m.bw.rounds, m.bw.now = bw, 0, false }

// checkStartupDone leaves startup when the pipe is full. That shows in the bandwidth, or in losses
// at a full queue.
func (m *Model) checkStartupDone() {
	if m.state != startup {
		return
	}
	if !m.bw.reached && m.loss.packets(m.mss) >= startupLosses && m.congested() {
		m.bw.reached, m.bw.now = true, true
		m.bounds.inflightHi = max(m.bdp(m.maxBW(), 1), m.bounds.latest)
	}
	if m.bw.reached {
		m.state, m.gains = drain, gains{drainPacingGain, startupCwndGain}
		m.cycle.begun, m.overshoot = m.round.count, overshootRounds
	}
}

func (m *Model) checkDrainDone(s *Sample) {
	if m.state == drain && (s.InFlight <= m.bdp(m.maxBW(), 1) || m.round.count > m.cycle.begun+drainRounds) {
		m.enterDown(s.Now)
	}
}

// cycle holds the state of the probing cycle, from probeBWDown to probeBWUp.
type cycle struct {
	since     time.Duration // when probeBWDown or probeBWUp was entered
	wait      time.Duration // until the next probe
	begun     int           // round in which drain began, or probeBWDown, probeBWRefill or probeBWUp
	upAcks    int           // bytes acknowledged since inflightHi last grew
	upStep    int           // inflightHi grows by a packet after so many bytes
	grows     int           // rounds in which inflightHi grew; each doubles the growth
	bw        float64       // bandwidth after the previous round of probeBWUp
	held      bool          // inflightHi has limited this round of probeBWUp
	corrected bool          // correctBandwidth was called, and the queue has stood since
	probed    int           // remaining rounds in which losses may be those of a probe
}

func (m *Model) enterDown(now time.Duration) {
	m.resetCongestion()
	m.state, m.gains = probeBWDown, gains{downPacingGain, cwndGain}
	m.cycle = cycle{since: now, wait: 2*time.Second + jitter(time.Second), begun: m.round.count, probed: m.cycle.probed}
}

func (m *Model) enterCruise() {
	m.state, m.gains = probeBWCruise, gains{1, cwndGain}
}

// correctBandwidth replaces a bandwidth that was overestimated, which happens when acknowledgements
// were delayed and arrived together. Without it, the queue would stand until the cycle after the
// next. It is called once per standing queue, because if other connections fill the queue, sending
// less does not drain it.
func (m *Model) correctBandwidth() {
	m.bw.max = [2]float64{m.queue.bw, 0}
	m.cycle.corrected = true
	m.state, m.gains = probeBWDown, gains{downPacingGain, cwndGain}
}

func (m *Model) enterRefill() {
	m.bounds.resetLo()
	m.state, m.gains = probeBWRefill, gains{1, cwndGain}
	m.cycle.begun, m.cycle.probed = m.round.count, lossRounds
}

func (m *Model) enterUp(s *Sample) {
	m.state, m.gains = probeBWUp, gains{upPacingGain, upCwndGain}
	m.cycle.since, m.cycle.begun, m.cycle.grows, m.cycle.upAcks = s.Now, m.round.count, 0, 0
	m.cycle.bw, m.cycle.held = m.maxBW(), false
	m.resetFullPipe(m.bw.latest)
	m.raiseSlope()
}

// updateCycle moves through the states of the probing cycle.
func (m *Model) updateCycle(s *Sample) {
	if !m.bw.reached || m.state < probeBWDown || m.state > probeBWUp {
		return
	}
	m.adaptUpperBounds(s)
	if m.round.start && m.overshoot > 0 {
		m.overshoot--
	}
	if m.round.start && m.cycle.probed > 0 && (m.state == probeBWDown || m.state == probeBWCruise) {
		m.cycle.probed--
	}
	switch m.state {
	case probeBWDown:
		if m.timeToProbe(s) {
			m.enterRefill()
		} else if s.InFlight <= min(m.bdp(m.maxBW(), 1), m.bounds.withHeadroom(m.mss)) {
			m.enterCruise()
		}
	case probeBWCruise:
		if m.timeToProbe(s) {
			m.enterRefill()
		} else if m.round.start && m.queue.rounds >= standRounds && !m.cycle.corrected {
			m.correctBandwidth()
		}
	case probeBWRefill:
		if m.round.start && m.round.count > m.cycle.begun {
			m.enterUp(s)
		}
	case probeBWUp:
		roundOver := m.round.start && m.round.count > m.cycle.begun
		if roundOver && !m.growing() && s.InFlight > m.bdp(m.maxBW(), upPacingGain) || m.bw.now {
			m.advanceFilter()
			m.enterDown(s.Now)
		}
	}
}

// growing reports whether a probe may still find more bandwidth: the last round has found more than
// the one before, or inflightHi has limited it. A connection that takes its share from others finds
// more in each round. One that is alone on the path does not, and ends its probe.
func (m *Model) growing() bool {
	grew := m.cycle.held || m.maxBW() > m.cycle.bw*upGrowth
	m.cycle.bw, m.cycle.held = m.maxBW(), false
	return grew
}

// timeToProbe reports whether to probe for more bandwidth: after two to three seconds, or after as
// many rounds as Reno needs to grow to the same window, so that Reno connections get their share.
func (m *Model) timeToProbe(s *Sample) bool {
	rounds := min(m.bdp(m.maxBW(), 1)/m.mss, 63)
	return s.Now-m.cycle.since > m.cycle.wait || m.round.count-m.cycle.begun > max(rounds, 1)
}

// checkQueue counts the consecutive rounds in which a queue stood and this connection had enough in
// flight to be a part of it. The delivery rate of such a round is all that the bottleneck can
// deliver, or what other connections leave of it.
func (m *Model) checkQueue(s *Sample) {
	q := &m.queue
	stands := m.rtt.low > m.rtt.min+time.Duration(float64(m.rtt.min)*standRTT)+queueNoise
	if s.TxInFlight < m.bdp(m.maxBW(), 0.5) || !stands {
		*q, m.cycle.corrected = standing{}, false
		return
	}
	if q.rounds++; q.rounds == 1 || m.bw.latest < q.bw {
		q.bw = m.bw.latest
	}
}

// updateRTT updates the minimum of the last ten seconds. A round-trip time that is hardly longer
// confirms the minimum, so that probeRTT is not needed.
func (m *Model) updateRTT(s *Sample) {
	if s.RTT <= 0 {
		return
	}
	r := &m.rtt
	if r.smoothed == 0 {
		r.smoothed = s.RTT
	}
	r.smoothed += (s.RTT - r.smoothed) / 8
	m.loss.rtt = max(m.loss.rtt, s.RTT)
	if r.low == 0 || s.RTT < r.low {
		r.low = s.RTT
	}
	near := r.min + time.Duration(float64(r.min)*queueRTT)
	switch {
	case r.probe == 0 || s.RTT <= r.probe || s.Now-r.probeAt > probeRTTInterval && m.state == probeRTT:
		r.probe, r.probeAt = s.RTT, s.Now
	case s.RTT <= near:
		r.probeAt = s.Now
	}
	switch {
	case r.min == 0 || s.RTT <= r.min || s.Now-r.at > minRTTFilter:
		r.min, r.at = s.RTT, s.Now
	case s.RTT <= near:
		r.at = s.Now
	}
	if r.probe < r.min {
		r.min, r.at = r.probe, r.probeAt
	}
}

// checkProbeRTT enters probeRTT if the minimum was not confirmed for five seconds, and leaves it
// after probeRTTDuration and one round with little in flight.
func (m *Model) checkProbeRTT(s *Sample) {
	r := &m.rtt
	if m.state != probeRTT && m.bw.reached && r.probe > 0 && s.Now-r.probeAt > probeRTTInterval {
		m.priorCwnd = m.cwnd
		m.state, m.gains = probeRTT, gains{1, probeRTTCwndGain}
		r.done, r.roundSet = 0, false
		r.probe = s.RTT
		if s.RTT == 0 {
			r.probe = r.smoothed
		}
	}
	if m.state != probeRTT {
		return
	}
	low := max(m.bdp(m.boundedBW(), probeRTTCwndGain), minPipePackets*m.mss)
	switch {
	case r.done == 0 && s.InFlight <= low:
		r.done, r.roundSet = s.Now+probeRTTDuration, false
		m.round.end = s.Delivered
	case r.done != 0:
		r.roundSet = r.roundSet || m.round.start
		if r.roundSet && s.Now > r.done {
			m.exitProbeRTT(s.Now)
		}
	}
}

func (m *Model) exitProbeRTT(now time.Duration) {
	m.rtt.probeAt = now
	m.rtt.min, m.rtt.at = m.rtt.probe, now
	m.cwnd = max(m.cwnd, m.priorCwnd)
	m.bounds.resetLo()
	m.enterDown(now)
	m.enterCruise()
}
