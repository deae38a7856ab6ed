package snoop

import (
	"time"

	"ginnel/internal/bbr"
)

// pacer spaces packets in time. Where the path allows it they leave in bursts (bbr.Model.Burst),
// because packets that leave one by one cost a timer and a system call each.
type pacer struct {
	next time.Duration // when the packets sent so far would have left at exactly the rate
	rate float64       // bytes a second, by which next was computed
	full bool          // the burst is complete: no packet leaves before next
}

// open reports whether a packet may leave now.
func (p *pacer) open(now time.Duration) bool { return !p.full || now >= p.next }

// sent records that n bytes leave. It makes up for at most a quantum of time that has passed
// unused, because timers fire late, and the rate would not be reached otherwise.
func (p *pacer) sent(now time.Duration, n int, m *bbr.Model) {
	p.rate = m.PacingRate()
	p.next = max(p.next, now-p.time(m.Quantum())) + p.time(n)
	p.full = p.next >= now+p.time(m.Burst())
}

// time returns how long n bytes take at the rate.
func (p *pacer) time(n int) time.Duration {
	return time.Duration(float64(n) / p.rate * float64(time.Second))
}

// adapt lets the next packet leave earlier if the rate has more than doubled. A smaller change is
// not worth setting the timer again.
func (p *pacer) adapt(now time.Duration, m *bbr.Model) {
	if rate := m.PacingRate(); p.next > now && rate > 2*p.rate && p.rate > 0 {
		p.next = now + time.Duration(float64(p.next-now)*p.rate/rate)
		p.rate = rate
	}
}
