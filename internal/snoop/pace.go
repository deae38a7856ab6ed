package snoop

import (
	"time"

	"ginnel/internal/bbr"
)

// pacer spaces packets out, in bursts where the path allows them (bbr.Model.Burst): packets that
// leave one by one each cost a timer and a system call.
type pacer struct {
	next time.Duration // when the packets so far have taken the time that the rate gives them
	rate float64       // that next was computed with
	full bool          // the burst is over: nothing leaves before next
}

// open reports whether a packet may leave now.
func (p *pacer) open(now time.Duration) bool { return !p.full || now >= p.next }

// sent notes that n bytes leave. Time that was missed is made up for, as far as a quantum goes: a
// timer fires late, and the rate would be missed otherwise.
func (p *pacer) sent(now time.Duration, n int, m *bbr.Model) {
	p.rate = m.PacingRate()
	p.next = max(p.next, now-p.time(m.Quantum())) + p.time(n)
	p.full = p.next >= now+p.time(m.Burst())
}

// time is how long n bytes take at the rate.
func (p *pacer) time(n int) time.Duration {
	return time.Duration(float64(n) / p.rate * float64(time.Second))
}

// adapt has the next packet leave sooner where the rate has become much higher. Small differences
// are not worth another timer.
func (p *pacer) adapt(now time.Duration, m *bbr.Model) {
	if rate := m.PacingRate(); p.next > now && rate > 2*p.rate && p.rate > 0 {
		p.next = now + time.Duration(float64(p.next-now)*p.rate/rate)
		p.rate = rate
	}
}
