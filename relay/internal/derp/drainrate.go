package derp

import "time"

// A queue holds what its connection takes in queueSpan. At first, while that is unknown, the limits
// of the queue apply. A receiver on a slow link thus gets a short queue, and its backlog shows in
// the round-trip time before a sender's TCP has sent seconds ahead. A receiver on a fast link gets
// room for the window of a long path.
const (
	queueSpan = 100 * time.Millisecond
	minQueue  = 32 << 10 // some full packets, whatever the rate
	maxQueue  = 2 << 20  // 300 Mbit/s for 56 ms
)

// Bytes that the kernel holds unsent can no longer be dropped, nor overtaken by frames that are
// more urgent. Their number is therefore limited to unsentSpan, if the kernel has such a limit
// (TCP_NOTSENT_LOWAT on Linux). Bytes in flight do not count, so a low limit costs no throughput.
const (
	unsentSpan  = 20 * time.Millisecond
	leastUnsent = 16 << 10
	mostUnsent  = 128 << 10
)

// rateSpan is how long a drain must last to tell the rate of its connection. Bytes that go straight
// into the system's buffer tell nothing; they take less time than rateSpan.
const rateSpan = 50 * time.Millisecond

// maxRateAge is how long a measured rate holds while there is no backlog. Otherwise a receiver that
// was slow once would have a short queue for ever, because a short queue is drained before the rate
// can be measured again.
const maxRateAge = 10 * time.Second

// drainRate measures how many bytes a second a connection takes while it has a backlog.
type drainRate struct {
	since    time.Time // when the current measurement began
	bytes    int       // written since then
	rate     float64   // bytes a second, averaged; 0 while unknown
	measured time.Time // when rate was measured last
}

// start begins a measurement, because the drain has found a backlog. It reports whether it has
// discarded a rate that was measured too long ago.
func (r *drainRate) start(now time.Time) (forgotten bool) {
	r.since, r.bytes = now, 0
	if r.rate == 0 || now.Sub(r.measured) < maxRateAge {
		return false
	}
	r.rate = 0
	return true
}

// add counts n written bytes. It reports whether a measurement has ended, so that the rate may
// differ.
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
