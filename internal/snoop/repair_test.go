package snoop

import (
	"testing"
	"time"
)

// message sends n bytes, has them acknowledged after a round-trip time, and returns how long they
// waited before they left.
func (c *talk) message(n int, rtt time.Duration) (waited time.Duration) {
	c.t.Helper()
	if !c.s.Queue(c.now, c.s.end, n, false) {
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

// Short messages tell nothing of the bandwidth: what follows them leaves at once.
func TestShortMessagesDoNotSlowOthers(t *testing.T) {
	c := newTalk(t)
	for _, n := range []int{3, 10, 517, 40, 4000, 1, 1, 10_000} {
		if waited := c.message(n, 66*ms); waited > 66*ms {
			t.Errorf("%d bytes waited for %v before they left", n, waited)
		}
	}
}

// A peer without SACK tells of one loss at a time: the packets that were sent before the loss was
// found may be lost, too, and those that were sent later are not.
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
	c.ack(16) // all that had been sent
	c.queue(3)
	c.want("more", 16, 17, 18)
	c.wait(100 * ms)
	c.ack(17)
	c.want("nothing: the others are on their way")
	c.ack(19)
	if lost := c.s.Stats().Lost; lost != 2 {
		t.Errorf("%d packets were found lost, want 2", lost)
	}
}

// What the timer finds lost counts for the model as what an acknowledgement finds lost does.
func TestLossesOfTimerAreTold(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.s.rack.reordered = true // so that packets may pass each other for 25 ms
	c.queue(4)
	c.want("the next", 10, 11, 12, 13)
	c.wait(100 * ms)
	c.ack(10, 11, 14)
	c.want("nothing yet")
	c.wait(30 * ms)
	c.want("the lost one", 10)
	if c.s.lost != 1000 {
		t.Fatalf("%d bytes are to be told, want 1000", c.s.lost)
	}
	c.wait(100 * ms)
	c.ack(14)
	if c.s.lost != 0 {
		t.Errorf("%d bytes are still to be told", c.s.lost)
	}
}

// A packet that is acknowledged in two parts has arrived.
func TestPartsOfAPacket(t *testing.T) {
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

// What was sent on another path says nothing of the present one.
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
	if c.s.lost != 0 || c.s.rate.lost != 0 || c.s.Stats().Lost != 2 {
		t.Errorf("%d and %d bytes count for the new path, and %d packets in all; want none, none and 2", c.s.lost, c.s.rate.lost, c.s.Stats().Lost)
	}
}

// What was sent again and again on a path that did not work is tried at once on another, and with
// the usual timeout from then on.
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
		t.Errorf("after 10 s without an answer the next attempt is due in %v", wait)
	}
	c.s.PathChanged(c.now)
	c.wait(ms)
	c.want("on the new path", 10)
	if wait := c.s.Wake() - c.now; wait > time.Second {
		t.Errorf("the next attempt on the new path is due in %v", wait)
	}
}

// The window for reordering grows once a round trip, and shrinks when packets have been lost and
// not reordered many times.
func TestReorderingWindowShrinks(t *testing.T) {
	var r rack
	r.init()
	for range 5 {
		r.spurious(1000, 20_000)
	}
	if r.window != 2 {
		t.Errorf("window of %d quarters after packets of one round trip, want 2", r.window)
	}
	r.spurious(21_000, 20_000)
	if r.window != 3 {
		t.Errorf("window of %d quarters a round trip later, want 3", r.window)
	}
	for range keepReorder - 1 {
		r.repair()
	}
	if r.window != 3 {
		t.Errorf("window of %d quarters after %d repairs, want 3", r.window, keepReorder-1)
	}
	if r.repair(); r.window != 1 {
		t.Errorf("window of %d quarters after %d repairs, want 1", r.window, keepReorder)
	}
}

// Packet numbers wrap.
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
