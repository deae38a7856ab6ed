package userstack

import (
	"sync/atomic"
	"time"
)

// timestampRTT measures the round-trip time from timestamps that the peer echoes, also where only the
// peer sends data. It includes the time for which the peer holds an echo, so the lowest of late is
// what counts.
type timestampRTT struct {
	offset    uint32        // TSval at time 0 of the device's clock, which both count in milliseconds
	hasOffset bool          // there is an offset
	lowest    atomic.Int64  // nanoseconds; 0: none
	next      time.Duration // the lowest since began, which takes its place
	began     time.Duration
	since     uint32 // echoes of timestamps before this one are of another path
}

// minRTTWindow is for how long the lowest round-trip time counts.
const minRTTWindow = 10 * time.Second

func milliseconds(now time.Duration) uint32 { return uint32(now / time.Millisecond) }

// sent takes the timestamp that gVisor has given a segment now.
func (c *timestampRTT) sent(now time.Duration, ts uint32) {
	if ts != 0 {
		c.offset, c.hasOffset = ts-milliseconds(now), true
	}
}

// received takes the echo in a segment with data.
func (c *timestampRTT) received(now time.Duration, echo uint32) {
	if !c.hasOffset || echo == 0 {
		return
	}
	ms := int32(milliseconds(now) + c.offset - echo)
	if ms < 0 || ms > int32(time.Minute/time.Millisecond) || c.since != 0 && int32(echo-c.since) < 0 {
		return // not ours, or of another path
	}
	rtt := max(time.Duration(ms)*time.Millisecond, time.Millisecond/2)
	if now-c.began > minRTTWindow {
		if c.next > 0 {
			c.lowest.Store(int64(c.next))
		}
		c.next, c.began = rtt, now
	}
	if c.next == 0 || rtt < c.next {
		c.next = rtt
	}
	if l := time.Duration(c.lowest.Load()); l == 0 || rtt < l {
		c.lowest.Store(int64(rtt))
	}
}

// pathChanged forgets what was measured on another path. Echoes of what was sent there may still
// come for a while.
func (c *timestampRTT) pathChanged(now time.Duration) {
	c.lowest.Store(0)
	c.next, c.since = 0, milliseconds(now)+c.offset
}

// min is the lowest round-trip time of late; 0: unknown.
func (c *timestampRTT) min() time.Duration { return time.Duration(c.lowest.Load()) }
