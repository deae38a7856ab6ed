package bbr

import (
	"math"
	"testing"
	"time"
)

// Package snoop tests how the model behaves on simulated paths.

const (
	ms  = time.Millisecond
	mss = 1000
)

// steady returns a model that cruises on a path of 1 MB/s and 100 ms.
func steady(t *testing.T) (*Model, *Sample) {
	t.Helper()
	m := New(mss)
	s := &Sample{Now: time.Second}
	for m.State() != "cruise" {
		if s.Now > 10*time.Second {
			t.Fatalf("still %s", m.State())
		}
		trip(m, s, 100*ms, 100_000)
	}
	return m, s
}

// trip is a round trip in which n bytes are acknowledged at once.
func trip(m *Model, s *Sample, rtt time.Duration, n int) {
	s.Now += rtt
	s.PriorDelivered = s.Delivered
	s.Delivered += uint64(n)
	s.Interval, s.RTT, s.Acked = rtt, rtt, n
	s.InFlight, s.TxInFlight = n, n
	m.OnAck(s)
	s.Lost = 0
}

func TestModelOfSteadyPath(t *testing.T) {
	m, _ := steady(t)
	if bw := m.Bandwidth(); math.Abs(bw-1e6) > 1 {
		t.Errorf("bandwidth %.0f bytes a second", bw)
	}
	if m.MinRTT() != 100*ms {
		t.Errorf("round-trip time %v", m.MinRTT())
	}
	if rate := m.PacingRate(); rate > 1e6 || rate < 0.98e6 {
		t.Errorf("paces at %.0f bytes a second while cruising", rate)
	}
	if cwnd := m.Cwnd(); cwnd < 150_000 || cwnd > 320_000 {
		t.Errorf("window of %d bytes, want about twice 100,000", cwnd)
	}
}

// More than 2 % loss is congestion if the round-trip time shows a queue, more than 10 % always.
func TestCongested(t *testing.T) {
	for _, c := range []struct {
		lost int // of 100,000 bytes
		rtt  time.Duration
		want bool
	}{
		{1900, 200 * ms, false},
		{3000, 105 * ms, false},
		{3000, 115 * ms, true},
		{9000, 105 * ms, false},
		{13000, 100 * ms, true},
	} {
		m, _ := steady(t)
		m.loss = losses{lost: c.lost, acked: 100_000, rtt: c.rtt}
		if got := m.congested(); got != c.want {
			t.Errorf("%d of 100,000 bytes lost at %v: %v", c.lost, c.rtt, got)
		}
	}
}

// A congested round lowers the rate until the next probe, by at most 30 %, and not below the
// delivery rate.
func TestLowerBounds(t *testing.T) {
	m, s := steady(t)
	before := m.PacingRate()
	for range 2 { // the first sample still belongs to the round before
		s.Lost = 20_000
		trip(m, s, 130*ms, 60_000)
	}
	if got := m.PacingRate() / before; got > 0.75 || got < 0.69 {
		t.Errorf("%.2f of the rate after a round with congestion, want 0.7", got)
	}
	m.enterRefill()
	m.setPacingRate()
	if got := m.PacingRate() / before; got < 0.99 {
		t.Errorf("%.2f of the rate at the next probe", got)
	}
}

// A probe that meets congestion ends and sets inflightHi to what was in flight when the loss
// exceeded the threshold. Losses of a probe that has just ended do the same.
func TestUpperBound(t *testing.T) {
	loss := &Loss{Size: mss, TxInFlight: 150_000, LostSince: 5000}
	m, s := steady(t)
	m.OnLoss(s.Now, loss)
	if m.bounds.inflightHi != math.MaxInt {
		t.Error("a loss while cruising sets the upper bound")
	}
	m.enterRefill()
	m.enterUp(s)
	m.loss.rtt = 100 * ms
	m.rtt.smoothed = 100 * ms
	m.OnLoss(s.Now, loss)
	if m.State() != "up" || m.bounds.inflightHi != math.MaxInt {
		t.Error("a loss without a queue ends the probe")
	}
	m.loss.rtt = 150 * ms
	m.OnLoss(s.Now, loss)
	if m.State() != "down" || m.bounds.inflightHi != 149_000 {
		t.Errorf("%s, upper bound %d", m.State(), m.bounds.inflightHi)
	}
	m.enterRefill()
	m.enterUp(s)
	m.enterDown(s.Now)
	m.loss.rtt = 150 * ms
	m.OnLoss(s.Now, &Loss{Size: mss, TxInFlight: 120_000, LostSince: 3000})
	if m.bounds.inflightHi >= 149_000 {
		t.Error("a loss just after a probe does not count")
	}
}

func TestOnset(t *testing.T) {
	for _, c := range []struct {
		l    Loss
		want int
	}{
		{Loss{Size: 1000, TxInFlight: 100_000, LostSince: 1000}, 101_020}, // the fraction reaches 2 % only after more is sent
		{Loss{Size: 1000, TxInFlight: 100_000, LostSince: 3000}, 99_000},
	} {
		if got := c.l.onset(); got != c.want {
			t.Errorf("%+v: %d, want %d", c.l, got, c.want)
		}
	}
}

// After a retransmission timeout one packet may be in flight, more after each acknowledgement, and
// as much as before after recovery.
func TestTimeout(t *testing.T) {
	m, s := steady(t)
	before := m.Cwnd()
	m.OnTimeout(0)
	m.OnTimeout(0)
	if got := m.Cwnd(); got != mss {
		t.Errorf("window of %d after a timeout", got)
	}
	trip(m, s, 100*ms, mss)
	if got := m.Cwnd(); got != 2*mss {
		t.Errorf("window of %d after the first acknowledgement", got)
	}
	m.OnRecovered()
	if got := m.Cwnd(); got != before {
		t.Errorf("window of %d after recovery, want %d", got, before)
	}
}

// After a change of path everything is measured again, also if the new path is longer.
func TestPathChanged(t *testing.T) {
	m, s := steady(t)
	m.PathChanged()
	if m.MinRTT() != 0 || m.Bandwidth() != 0 || m.State() != "startup" || m.Cwnd() < initialPackets*mss {
		t.Errorf("%v, %v, %s, %d", m.MinRTT(), m.Bandwidth(), m.State(), m.Cwnd())
	}
	for range 30 {
		trip(m, s, 300*ms, 300_000)
	}
	if m.MinRTT() != 300*ms {
		t.Errorf("round-trip time %v on the new path", m.MinRTT())
	}
}

// On a short path the window doubles in each round trip until a loss, which reduces it to 0.7, once
// a round trip. There is no pacing.
func TestShortPath(t *testing.T) {
	m, s := New(mss), &Sample{Now: time.Second, CwndLimited: true}
	for range 5 {
		trip(m, s, ms, m.Cwnd())
	}
	if got := m.Cwnd(); got != 32*initialPackets*mss || m.PacingRate() != unpaced {
		t.Errorf("window of %d after five round trips, paced at %v", got, m.PacingRate())
	}
	s.Lost = mss
	trip(m, s, ms, 10*mss)
	want := 32 * initialPackets * mss * 7 / 10
	if got := m.Cwnd(); got != want {
		t.Errorf("window of %d after a loss, want %d", got, want)
	}
	s.Lost = mss
	trip(m, s, ms, mss)
	if got := m.Cwnd(); got != want {
		t.Errorf("window of %d after another loss of the same round trip", got)
	}
	for range 3 {
		trip(m, s, ms, m.Cwnd())
	}
	if got := m.Cwnd(); got < want+2*mss || got > want+4*mss {
		t.Errorf("window of %d three round trips later, want a packet more for each", got)
	}
	s.CwndLimited = false
	before := m.Cwnd()
	for range 10 {
		trip(m, s, ms, mss)
	}
	if got := m.Cwnd(); got != before {
		t.Errorf("a window that is not filled grows to %d", got)
	}
	for range 15 {
		trip(m, s, time.Second, mss)
	}
	if m.PacingRate() == unpaced {
		t.Error("a path that has become long is not paced")
	}
}

// An application-limited sender leaves startup when a queue stands, because the path carries no
// more. Without a queue startup goes on.
func TestStartupEndsByQueue(t *testing.T) {
	for _, c := range []struct {
		rtt  time.Duration // while the rate does not grow
		want bool
	}{{102 * ms, false}, {110 * ms, false}, {120 * ms, true}} {
		m := New(mss)
		s := &Sample{Now: time.Second, AppLimited: true}
		for _, n := range []int{20_000, 50_000, 100_000} {
			trip(m, s, 100*ms, n)
		}
		for range 6 {
			trip(m, s, c.rtt, int(c.rtt.Seconds()*1e6))
		}
		if got := m.State() != "startup"; got != c.want {
			t.Errorf("round-trip time of %v instead of 100 ms: startup ended is %v", c.rtt, got)
		}
	}
}

// Round-trip times that are hardly longer than the minimum confirm it, so that probeRTT is not
// entered.
func TestMinRTTIsConfirmed(t *testing.T) {
	for _, c := range []struct {
		rtt  time.Duration
		want bool // probeRTT is entered
	}{{105 * ms, false}, {112 * ms, true}} {
		m, s := steady(t)
		probed := false
		for range 100 {
			trip(m, s, c.rtt, int(c.rtt.Seconds()*1e6))
			probed = probed || m.State() == "probe-rtt"
		}
		if probed != c.want {
			t.Errorf("round-trip times of %v instead of 100 ms for 10 s: probeRTT entered is %v", c.rtt, probed)
		}
	}
}

// A bandwidth that was overestimated because of aggregated acknowledgements causes a standing
// queue. Then the model replaces it by the measured rate and drains the queue, once per standing
// queue.
func TestBandwidthIsCorrected(t *testing.T) {
	m, s := steady(t)
	m.bw.max[0] = 1.3e6
	for round := range 2 {
		if m.State() != "cruise" || m.Bandwidth() < 1.3e6 {
			t.Fatalf("%s at %.0f bytes a second after %d rounds", m.State(), m.Bandwidth(), round)
		}
		trip(m, s, 140*ms, 140_000)
	}
	trip(m, s, 140*ms, 140_000)
	if bw := m.Bandwidth(); m.State() != "down" || math.Abs(bw-1e6) > 1000 {
		t.Errorf("%s at %.0f bytes a second, want the rate of 1,000,000", m.State(), bw)
	}
	m.enterCruise()
	m.bw.max[0] = 1.3e6
	for range 5 {
		trip(m, s, 140*ms, 140_000)
	}
	if m.State() != "cruise" {
		t.Errorf("%s: corrected again although the queue still stands", m.State())
	}
	trip(m, s, 100*ms, 100_000)
	m.bw.max[0] = 1.3e6
	for range 4 {
		trip(m, s, 140*ms, 140_000)
	}
	if m.State() != "down" {
		t.Errorf("%s: not corrected again for a new queue", m.State())
	}
}

// A connection that sends little while others fill the queue does not take its own rate for the
// bandwidth.
func TestQueueOfOthersSaysNothing(t *testing.T) {
	m, s := steady(t)
	s.AppLimited = true
	for range 8 {
		trip(m, s, 150*ms, 64)
	}
	if bw := m.Bandwidth(); bw < 0.9e6 {
		t.Errorf("bandwidth of %.0f bytes a second after some short messages, want 1,000,000", bw)
	}
	m = New(mss)
	s = &Sample{Now: time.Second, AppLimited: true}
	trip(m, s, 100*ms, 10_000)
	for range 8 {
		trip(m, s, 150*ms, 64)
	}
	if m.State() != "startup" {
		t.Errorf("%s after some short messages, want startup", m.State())
	}
}

// At least four packets leave in a round-trip time, even if the measured bandwidth is lower.
func TestLeastRate(t *testing.T) {
	m, _ := steady(t)
	m.bw.max = [2]float64{10, 0}
	m.setPacingRate()
	if got := m.PacingRate(); math.Abs(got-40_000) > 1000 {
		t.Errorf("%.0f bytes a second at 100 ms, want 40,000", got)
	}
	m = New(mss)
	if got := m.PacingRate(); got < 10_000 {
		t.Errorf("%.0f bytes a second before any measurement", got)
	}
}

// A sample with only losses starts no round.
func TestLossesBeginNoRound(t *testing.T) {
	m, s := steady(t)
	before := m.round.count
	lost := *s
	lost.PriorDelivered, lost.Interval, lost.RTT, lost.Acked, lost.Lost = lost.Delivered, 0, 0, 0, 3000
	m.OnAck(&lost)
	if m.round.count != before {
		t.Error("a sample without an arrival has begun a round")
	}
	if m.loss.lost != 3000 {
		t.Errorf("%d lost bytes count for the round, want 3000", m.loss.lost)
	}
}
