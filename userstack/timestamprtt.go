package userstack

import (
	"sync/atomic"
	"time"
)

// timestampRTT measures the round-trip time by TCP timestamps (RFC 7323, section 4), so that it
// also works on the side that only receives data. A sample includes the time for which the peer
// delays its acknowledgement, so only the recent minimum is used.
type timestampRTT struct {
	offset    uint32        // TSval of gVisor at time 0 of the device's clock; both count milliseconds
	hasOffset bool          // offset is known
	lowest    atomic.Int64  // minimum of this window and the one before, in nanoseconds; 0 means unknown
	next      time.Duration // minimum of this window; 0 means none yet
	began     time.Duration // when this window began
	since     uint32        // ignore echoes of older timestamps, which took another path; 0 means none
}

// minRTTWindow is the length of a window over which the minimum is taken.
const minRTTWindow = 10 * time.Second

func milliseconds(now time.Duration) uint32 { return uint32(now / time.Millisecond) }

// sent notes the TSval of a segment that gVisor sends now.
func (c *timestampRTT) sent(now time.Duration, ts uint32) {
	if ts != 0 {
		c.offset, c.hasOffset = ts-milliseconds(now), true
	}
}

// received takes the TSecr of a data segment.
func (c *timestampRTT) received(now time.Duration, echo uint32) {
	if !c.hasOffset || echo == 0 {
		return
	}
	ms := int32(milliseconds(now) + c.offset - echo)
	if ms < 0 || ms > int32(time.Minute/time.Millisecond) || c.since != 0 && int32(echo-c.since) < 0 {
		return // not a timestamp of ours, or of another path
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

// pathChanged discards what was measured on the old path. Echoes of timestamps that were sent there
// are ignored from now on.
func (c *timestampRTT) pathChanged(now time.Duration) {
	c.lowest.Store(0)
	c.next, c.since = 0, milliseconds(now)+c.offset
}

// min is the recent minimum of the round-trip time; 0 means unknown.
func (c *timestampRTT) min() time.Duration { return time.Duration(c.lowest.Load()) }
