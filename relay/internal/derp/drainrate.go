package derp

import "time"

// A queue holds what its connection takes in queueSpan, and at first, while that is not known, what
// its limits say. A receiver on a slow link so gets a short queue: its backlog shows in the round
// trip time before a sender's TCP has sent seconds ahead. One on a fast link gets room for the
// window of a long path.
const (
	queueSpan = 100 * time.Millisecond
	minQueue  = 32 << 10 // some full packets, whatever the rate
	maxQueue  = 2 << 20  // 300 Mbit/s for 56 ms
)

// The kernel may hold less than that unsent, where it can be told so: what it holds can no longer
// be dropped or overtaken by something more urgent. Bytes in flight are not counted, so a low limit
// costs no throughput.
const (
	unsentSpan  = 20 * time.Millisecond
	leastUnsent = 16 << 10
	mostUnsent  = 128 << 10
)

// rateSpan is how long a drain must last to tell the rate of its connection. What goes into the
// system's buffer at once says nothing; that is less than the first such span.
const rateSpan = 50 * time.Millisecond

// maxRateAge is how long a rate holds while there is no backlog. A receiver that was slow once would
// otherwise have a short queue for ever: what that holds is drained before its rate can be
// measured.
const maxRateAge = 10 * time.Second

// drainRate measures how many bytes a second a connection takes while there is more to be sent than
// it takes.
type drainRate struct {
	since    time.Time // when the present measurement began
	bytes    int       // what was written since
	rate     float64   // bytes a second, averaged; 0 while unknown
	measured time.Time // when rate was measured last
}

// start starts a measurement: the drain has found a backlog. It reports whether it has forgotten a
// rate that was measured too long ago.
func (r *drainRate) start(now time.Time) (forgotten bool) {
	r.since, r.bytes = now, 0
	if r.rate == 0 || now.Sub(r.measured) < maxRateAge {
		return false
	}
	r.rate = 0
	return true
}

// add counts n bytes and reports whether a measurement has ended, and the rate may differ.
func (r *drainRate) add(n int, now time.Time) bool {
	r.bytes += n
	took := now.Sub(r.since)
	if took < rateSpan {
		return false
	}
	rate := float64(r.bytes) / took.Seconds()
	if r.rate > 0 {
		rate = (r.rate + rate) / 2
	}
	r.rate, r.measured = rate, now
	r.since, r.bytes = now, 0
	return true
}

// bytesIn returns how many bytes the connection takes in d, within bounds.
func (r *drainRate) bytesIn(d time.Duration, least, most int) int {
	return int(min(max(r.rate*d.Seconds(), float64(least)), float64(most)))
}
