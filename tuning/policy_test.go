package tuning

import (
	"testing"
	"time"
)

// feed gives the policy the same load for some time and returns how often the choice changed.
func (p *policy) feed(l load, d time.Duration) (changes int) {
	for range d / busyInterval {
		if p.update(busyInterval, l) {
			changes++
		}
	}
	return changes
}

func TestPolicy(t *testing.T) {
	const soon = 20 * busyInterval // averages have followed
	var p policy
	for _, step := range []struct {
		what string
		load
		d      time.Duration
		useAll bool
	}{
		{"one is enough", load{0.9, 0.5, 2}, time.Minute, false},
		{"one is full for one interval", load{1, 0.5, 2}, busyInterval, false},
		{"one is full", load{1, 0.5, 2}, soon, true},
		{"several are used", load{1.6, 0.5, 2}, time.Minute, true},
		{"one would be enough, for a moment", load{0.5, 0.1, 2}, minHold / 2, true},
		{"and then not", load{0.9, 0.1, 2}, soon, true},
		{"one would be enough, for almost minHold", load{0.5, 0.1, 2}, minHold * 9 / 10, true},
		{"for longer", load{0.5, 0.1, 2}, soon, false},
		{"a queue soon after that", load{0.5, 4, 2}, soon, true},
		{"doubles the time until one is tried", load{0.5, 0.1, 2}, 2 * minHold * 9 / 10, true},
		{"which ends", load{0.5, 0.1, 2}, minHold / 2, false},
		{"one is enough for long", load{0.5, 0.1, 2}, time.Minute, false},
		{"a queue long after that", load{0.5, 4, 2}, soon, true},
		{"a shorter queue with all", load{0.5, 1, 2}, time.Minute, true},
		{"one is tried after minHold again", load{0.5, 0.1, 2}, minHold + soon, false},
		{"other processes use the rest", load{1, 4, 0.3}, time.Minute, false},
		{"they leave some for one interval", load{1, 4, 0.6}, busyInterval, false},
		{"they have ended", load{1, 0.5, 2}, soon, true},
		{"they have begun again", load{0.9, 4, 0.3}, 2*minHold + soon, false},
	} {
		p.feed(step.load, step.d)
		if p.useAll != step.useAll {
			t.Fatalf("%s: useAll is %v", step.what, p.useAll)
		}
	}
}

// The first interval of a load is partly quiet: it shows idle processors that other processes use
// by now.
func TestPolicyAfterQuiet(t *testing.T) {
	first := load{0.3, 2.2, 1}
	for _, then := range []struct {
		what string
		load
		useAll bool
	}{
		{"other processes work too", load{0.6, 3, 0.15}, false},
		{"no other process works", load{0.95, 3, 1}, true},
	} {
		var p policy
		p.update(quietInterval, load{idle: 2})
		if p.update(quietInterval, first) {
			t.Errorf("%s: all Ps after the first interval", then.what)
		}
		if p.feed(then.load, 5*busyInterval); p.useAll != then.useAll {
			t.Errorf("%s: useAll is %v", then.what, p.useAll)
		}
	}
}

// A load that is too much for one P and little for two does not change the choice all the time.
func TestPolicyHolds(t *testing.T) {
	var p policy
	changes := 0
	for range time.Hour / busyInterval {
		l := load{used: 1, idle: 2}
		if p.useAll {
			l.used = 0.6
		}
		if p.update(busyInterval, l) {
			changes++
		}
	}
	if limit := 2*int(time.Hour/maxHold) + 20; changes > limit {
		t.Errorf("%d changes in an hour, want %d at most", changes, limit)
	}
}

// Spinning needs one P, and a processor that no other process wants.
func TestPolicySpins(t *testing.T) {
	for _, c := range []struct {
		useAll bool
		idle   float64
		want   bool
	}{{false, 1, true}, {false, idleForSpin, true}, {false, 0.05, false}, {true, 1, false}} {
		p := policy{useAll: c.useAll, average: load{idle: c.idle}}
		if got := p.maySpin(); got != c.want {
			t.Errorf("useAll %v, %v idle: %v", c.useAll, c.idle, got)
		}
	}
}
