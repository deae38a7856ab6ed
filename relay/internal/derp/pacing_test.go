package derp

import (
	"testing"
	"time"

	"ginnel/internal/sys"
)

// samples takes n samples of a connection in which the given share of what is sent is lost.
func (p *pacing) samples(n int, s *sys.TCPState, lost float64) {
	now := p.next
	for range n {
		const sent = 1 << 20
		s.Sent += sent
		s.Retrans += uint64(lost * sent)
		now = now.Add(time.Second)
		p.sample(*s, now)
	}
}

// The rate is limited while many packets are lost, and for some time after.
func TestPacingLimitsRateWhileLossy(t *testing.T) {
	var p pacing
	s := &sys.TCPState{RTT: 100 * time.Millisecond, MinRTT: 66 * time.Millisecond, DeliveryRate: 1e6}
	p.samples(10, s, 0.015)
	if p.limit != 0 {
		t.Errorf("limit of %d bytes a second with 1.5 %% lost, want none", p.limit)
	}
	p.samples(1, s, 0.03)
	if p.limit != 1.25e6 {
		t.Errorf("limit of %d bytes a second with 3 %% lost, want 1,250,000", p.limit)
	}
	s.DeliveryRate = 1.25e6
	p.samples(1, s, 0)
	if p.limit != 1.5625e6 {
		t.Errorf("limit of %d bytes a second when the rate grows, want 1,562,500", p.limit)
	}
	s.DeliveryRate = 0.4e6
	p.samples(pacingSamples, s, 0)
	if p.limit != 0.5e6 {
		t.Errorf("limit of %d bytes a second when the rate falls, want 500,000", p.limit)
	}
	p.samples(lossFreeSamples, s, 0)
	if p.limit != 0 {
		t.Errorf("limit of %d bytes a second long after the last loss, want none", p.limit)
	}
}

func TestPacingChoosesCongestionControl(t *testing.T) {
	free, queued := 70*time.Millisecond, 120*time.Millisecond
	for _, c := range []struct {
		name  string
		rates []uint64
		rtt   time.Duration
		lost  float64 // of the last samples
		want  congestion
	}{
		{"the rate grows", []uint64{1e6, 2e6, 4e6, 8e6, 16e6}, free, 0, systemChoice},
		{"the rate has grown", []uint64{1e6, 2e6, 2e6, 2e6, 2e6}, free, 0, notBBR},
		{"a full queue loses", []uint64{1e6, 2e6, 2e6, 2e6, 2e6}, queued, 0.01, notBBR},
		{"the path loses", []uint64{1e6, 1e6, 1e6, 1e6, 1e6}, free, 0.001, useBBR},
		{"the path loses from the start", []uint64{1e6, 2e6, 4e6}, free, 0.001, useBBR},
		{"the path loses twice", []uint64{1e6, 2e6}, free, 0.001, systemChoice},
	} {
		var p pacing
		s := &sys.TCPState{RTT: c.rtt, MinRTT: 66 * time.Millisecond}
		for _, s.DeliveryRate = range c.rates {
			p.samples(1, s, c.lost)
		}
		if p.control != c.want {
			t.Errorf("%s: congestion control %d, want %d", c.name, p.control, c.want)
		}
		if p.samples(3, s, 0); c.want == useBBR && p.control != useBBR {
			t.Errorf("%s: BBR is given up without losses", c.name)
		}
	}
}

// Random losses that are far apart do not count together, and a dialogue tells nothing about the
// rate.
func TestPacingNeedsEvidence(t *testing.T) {
	var p pacing
	s := &sys.TCPState{RTT: 70 * time.Millisecond, MinRTT: 66 * time.Millisecond, DeliveryRate: 1e6}
	for range 10 {
		p.samples(1, s, 0.001)
		p.samples(maxRandomGap+1, s, 0)
	}
	if p.control != notBBR {
		t.Errorf("congestion control %d after rare losses, want %d", p.control, notBBR)
	}
	p = pacing{}
	for range 100 {
		s.Sent += sampleBytes - 1
		p.sample(*s, p.next.Add(time.Second))
	}
	if p.n != 100 || p.control != systemChoice {
		t.Errorf("congestion control %d after %d samples of a dialogue, want %d", p.control, p.n, systemChoice)
	}
}

// A sample is taken at most once per round trip, and not for a few bytes.
func TestPacingSamplesSeldom(t *testing.T) {
	var p pacing
	if p.due(sampleBytes-1) || !p.due(1) || p.due(1) {
		t.Errorf("samples are not due every %d bytes", sampleBytes)
	}
	for range sampleWrites - 2 {
		p.due(1)
	}
	if !p.due(1) {
		t.Errorf("samples are not due every %d writes", sampleWrites)
	}
	s, now := sys.TCPState{RTT: 200 * time.Millisecond}, time.Now()
	for range 100 {
		p.sample(s, now)
		now = now.Add(10 * time.Millisecond)
	}
	if p.n != 5 {
		t.Errorf("%d samples in a second of round trips of 200 ms, want 5", p.n)
	}
}
