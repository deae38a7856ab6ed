package snoop

import (
	"testing"
	"time"
)

// message sends n bytes, acknowledges them after rtt, and returns how long the pacer held them
// back.
func (c *talk) message(n int, rtt time.Duration) (waited time.Duration) {
	c.t.Helper()
	if !c.s.Queue(c.now, Segment{Seq: c.s.end, Len: n}) {
		c.t.Fatal("data that continue the stream were refused")
	}
	begin := c.now
	for c.s.nxt != c.s.end {
		if _, ok := c.s.Next(c.now); ok {
			continue
		}
		if c.now-begin > time.Minute {
			c.t.Fatal("a message does not leave")
		}
		c.now += ms
	}
	waited = c.now - begin
	c.wait(rtt)
	c.s.Ack(c.now, c.s.end, nil)
	return waited
}

// Short messages are no measure of the bandwidth, so they do not slow down later ones.
func TestShortMessagesDoNotSlowOthers(t *testing.T) {
	c := newTalk(t)
	for _, n := range []int{3, 10, 517, 40, 4000, 1, 1, 10_000} {
		if waited := c.message(n, 66*ms); waited > 66*ms {
			t.Errorf("%d bytes waited for %v before they left", n, waited)
		}
	}
}

// A peer without SACK shows one loss at a time. During fast recovery, packets sent before its start
// may be found lost, and packets sent later are not.
func TestRecoveryWithoutSACKEnds(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(6)
	c.want("the next", 10, 11, 12, 13, 14, 15)
	c.wait(100 * ms)
	for range dupThresh {
		c.s.Duplicate(c.now) // 10 is lost
	}
	c.want("the first hole", 10)
	c.wait(100 * ms)
	c.ack(13)
	c.want("the second hole", 13)
	c.wait(100 * ms)
	c.ack(16) // everything sent before the recovery
	c.queue(3)
	c.want("more", 16, 17, 18)
	c.wait(100 * ms)
	c.ack(17)
	c.want("nothing: the others are in flight")
	c.ack(19)
	if lost := c.s.Stats().Lost; lost != 2 {
		t.Errorf("%d packets were found lost, want 2", lost)
	}
}

// Losses that the reordering timer detects are reported to the model like those that an
// acknowledgement shows.
func TestTimerLossesAreReported(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.s.rack.reordered = true // so that the reordering window is 25 ms
	c.queue(4)
	c.want("the next", 10, 11, 12, 13)
	c.wait(100 * ms)
	c.ack(10, 11, 14)
	c.want("nothing yet")
	c.wait(30 * ms)
	c.want("the lost one", 10)
	if c.s.newlyLost != 1000 {
		t.Fatalf("%d lost bytes are to be reported, want 1000", c.s.newlyLost)
	}
	c.wait(100 * ms)
	c.ack(14)
	if c.s.newlyLost != 0 {
		t.Errorf("%d lost bytes are still to be reported", c.s.newlyLost)
	}
}

// A packet that is selectively acknowledged in two parts has arrived.
func TestPartialSACK(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(3)
	c.want("the next", 10, 11, 12)
	c.wait(100 * ms)
	c.s.Ack(c.now, 10_000, []Block{{11_000, 11_400}})
	c.s.Ack(c.now, 10_000, []Block{{11_400, 13_000}})
	c.check()
	if got := c.s.flight; got != 1000 {
		t.Errorf("%d bytes are in flight, want 1000: only packet 10 is missing", got)
	}
}

// The loss of a packet that was sent on an earlier path does not count for the model.
func TestLossesOfOldPath(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(6)
	c.want("the next", 10, 11, 12, 13, 14, 15)
	c.wait(ms)
	c.s.PathChanged(c.now)
	c.wait(100 * ms)
	c.ack(10, 12, 16)
	c.want("the lost ones", 10, 11)
	if c.s.newlyLost != 0 || c.s.rate.lost != 0 || c.s.Stats().Lost != 2 {
		t.Errorf("%d and %d bytes count for the new path, and %d packets in all; want none, none and 2",
			c.s.newlyLost, c.s.rate.lost, c.s.Stats().Lost)
	}
}

// After a change of path, a retransmission that was backing off is sent at once, and the timeout is
// the usual one again.
func TestNewPathIsTriedAtOnce(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(1)
	c.want("the next", 10)
	for range 100 {
		c.wait(100 * ms)
		for _, ok := c.s.Next(c.now); ok; _, ok = c.s.Next(c.now) {
		}
	}
	if wait := c.s.Wake() - c.now; wait < 2*time.Second {
		t.Errorf("after 10 s without an acknowledgement the next retransmission is due in %v", wait)
	}
	c.s.PathChanged(c.now)
	c.wait(ms)
	c.want("on the new path", 10)
	if wait := c.s.Wake() - c.now; wait > time.Second {
		t.Errorf("the next retransmission on the new path is due in %v", wait)
	}
}

// The reordering window grows at most once a round trip. It shrinks after many recoveries without
// spurious retransmissions.
func TestReorderingWindowShrinks(t *testing.T) {
	var r rack
	r.init()
	for range 5 {
		r.spurious(1000, 20_000)
	}
	if r.window != 2 {
		t.Errorf("window of %d quarters after spurious retransmissions of one round trip, want 2", r.window)
	}
	r.spurious(21_000, 20_000)
	if r.window != 3 {
		t.Errorf("window of %d quarters a round trip later, want 3", r.window)
	}
	for range reorderPersist - 1 {
		r.recoveryBegins()
	}
	if r.window != 3 {
		t.Errorf("window of %d quarters after %d recoveries, want 3", r.window, reorderPersist-1)
	}
	if r.recoveryBegins(); r.window != 1 {
		t.Errorf("window of %d quarters after %d recoveries, want 1", r.window, reorderPersist)
	}
}

// Packet numbers wrap around.
func TestPacketNumbersWrap(t *testing.T) {
	c := newTalk(t)
	c.s.pkts.first = maxNumber - 4
	c.begin()
	c.queue(6)
	c.want("the next", 10, 11, 12, 13, 14, 15)
	c.wait(100 * ms)
	c.ack(10, 11, 13, 14, 16)
	c.want("the lost ones", 10, 13)
	c.wait(100 * ms)
	c.ack(16)
	if !c.s.Idle() || c.s.flight != 0 {
		t.Errorf("%d bytes are in flight after all was acknowledged", c.s.flight)
	}
}
