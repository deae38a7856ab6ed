package transport

import (
	"testing"
	"time"

	"ginnel/internal/simnet"
)

// comparison feeds a quality with a report a second of what a path carries.
type comparison struct {
	t    *testing.T
	q    quality
	now  time.Time
	loss float64 // of the direct path
	rate [2]int  // bytes a second that the ways carry
}

func newComparison(t *testing.T, loss float64, direct, relay int) *comparison {
	return &comparison{t: t, now: time.Unix(1e9, 0), loss: loss, rate: [2]int{direct, relay}}
}

// run passes that many seconds with traffic, and returns in how many of them the relay was used.
func (c *comparison) run(seconds int) (relayed int) {
	for range seconds {
		c.now = c.now.Add(time.Second)
		tr := Traffic{Packets: 1000, Lost: int(1000 * c.loss), Delivered: c.rate[directRate], Interval: time.Second}
		if c.q.relayed() {
			relayed++
			tr.Lost, tr.Delivered = 0, c.rate[relayRate]
		}
		c.q.report(c.now, &tr)
	}
	return relayed
}

// A direct path that loses little is used whatever the relay may carry: nobody tries.
func TestGoodPathIsKept(t *testing.T) {
	c := newComparison(t, 0.02, 1e6, 100e6)
	if n := c.run(3600); n > 0 {
		t.Errorf("the relay was used for %d s", n)
	}
}

// One that loses much is compared with the relay, which is used if it carries half as much again.
func TestLossyPathIsLeft(t *testing.T) {
	c := newComparison(t, 0.3, 1e6, 2e6)
	c.run(3 + trialReports)
	if c.q.prefers != preferRelay {
		t.Fatalf("after some seconds it prefers %d", c.q.prefers)
	}
	if n := c.run(600); n < 560 {
		t.Errorf("of ten minutes the relay was used for %d s", n)
	}
	c.loss, c.rate[directRate] = 0, 10e6 // the path has become good
	c.run(int(lastRecheck/time.Second) + trialReports + 2)
	if c.q.prefers != preferDirect {
		t.Error("the relay is used although the direct path is better now")
	}
}

// Where the relay carries little more it is tried now and then, ever more seldom.
func TestRelayIsNoBetter(t *testing.T) {
	c := newComparison(t, 0.3, 1e6, 1.4e6)
	if n := c.run(3600); n > 10*trialReports || n < 2*trialReports {
		t.Errorf("of an hour the relay was used for %d s", n)
	}
	if c.q.prefers == preferRelay {
		t.Error("the relay is preferred")
	}
}

// Reports of little traffic say nothing, and a trial waits for more.
func TestLittleTrafficSaysNothing(t *testing.T) {
	c := newComparison(t, 0.3, 1e6, 5e6)
	for range 100 {
		c.q.report(c.now, &Traffic{Packets: 10, Lost: 5, Interval: time.Second})
	}
	if c.q.prefers != preferDirect {
		t.Error("ten packets are enough")
	}
	c.run(4)
	if c.q.prefers != tryRelay {
		t.Fatal("no trial")
	}
	for range 100 {
		c.q.report(c.now, &Traffic{Packets: 10, Interval: time.Second})
	}
	if c.q.prefers != tryRelay {
		t.Error("the trial has ended without traffic")
	}
}

// The loop sends through the relay what quality wants there, and directly again when that is no
// better.
func TestReportsChooseTheRoute(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node("a", w.home(1, simnet.Easy)), w.node("b", w.home(2, simnet.Easy))
		w.introduce(a, b)
		a.send(b, "first")
		time.Sleep(time.Second)
		b.send(a, "answer")
		a.stream(b, 5*time.Second)
		if !a.path(b).Trusted {
			t.Fatal("no direct path to begin with")
		}
		seconds := func(n int, lost int) (direct, relayed int) {
			for range n {
				a.c.Report([]Traffic{{Key: b.key, Packets: 1000, Lost: lost, Delivered: 1e6, Interval: time.Second}})
				d, r, _ := a.stream(b, time.Second)
				direct, relayed = direct+d, relayed+r
			}
			return direct, relayed
		}
		if _, relayed := seconds(lossyReports-1, 300); relayed > 0 {
			t.Error("the relay is tried before the path has been lossy for a while")
		}
		if direct, relayed := seconds(2, 300); direct > 1 || relayed < 15 || !a.path(b).Lossy || a.path(b).Trusted {
			t.Errorf("a lossy path is not compared: %d packets directly, %d relayed, %+v", direct, relayed, a.path(b))
		}
		seconds(trialReports, 0)
		if direct, relayed := seconds(2, 0); direct == 0 || relayed > 0 || !a.path(b).Trusted {
			t.Errorf("the relay is no better, and is kept: %d packets directly, %d relayed, %+v", direct, relayed, a.path(b))
		}
	})
}

// When bulk data have ended, whatever the comparison was about, the direct path is used again; and
// the relay soon when there are more.
func TestRelayIsLeftAfterBulk(t *testing.T) {
	for _, seconds := range []int{lossyReports + 1, lossyReports + trialReports + 5} { // in a trial, and after it
		c := newComparison(t, 0.3, 1e6, 2e6)
		c.run(seconds)
		if !c.q.relayed() {
			t.Fatalf("after %d s the relay is not used", seconds)
		}
		c.q.rest(c.now.Add(bulkOver))
		if !c.q.relayed() {
			t.Error("the relay is left while a report may still come")
		}
		c.now = c.now.Add(bulkOver + time.Second)
		c.q.report(c.now, &Traffic{Packets: enoughSent - 1, Interval: time.Second})
		if c.q.rest(c.now); c.q.relayed() {
			t.Errorf("the relay is used after bulk data that lasted for %d s have ended", seconds)
		}
		c.run(2)
		if !c.q.relayed() {
			t.Error("further bulk data do not take the relay")
		}
	}
}
