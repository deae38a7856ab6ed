package main

import (
	"testing"
	"time"
)

// pace feeds an effort for some time and returns how often the number of processors changed.
func (p *pacer) pace(e effort, d time.Duration) (changes int) {
	for range d / busyLook {
		if p.look(busyLook, e) {
			changes++
		}
	}
	return changes
}

func TestPacer(t *testing.T) {
	const soon = 20 * busyLook // averages have followed
	var p pacer
	for _, step := range []struct {
		what string
		effort
		d    time.Duration
		wide bool
	}{
		{"one is enough", effort{0.9, 0.5, 2}, time.Minute, false},
		{"for a moment it is not", effort{1, 0.5, 2}, busyLook, false},
		{"it has no time left", effort{1, 0.5, 2}, soon, true},
		{"the effort is for more", effort{1.6, 0.5, 2}, time.Minute, true},
		{"it is calm, for a moment", effort{0.5, 0.1, 2}, minCalm / 2, true},
		{"and is not", effort{0.9, 0.1, 2}, soon, true},
		{"it is calm", effort{0.5, 0.1, 2}, minCalm * 9 / 10, true},
		{"for long", effort{0.5, 0.1, 2}, soon, false},
		{"after a moment there is a queue", effort{0.5, 4, 2}, soon, true},
		{"so that one is not tried as soon", effort{0.5, 0.1, 2}, 2 * minCalm * 9 / 10, true},
		{"but then", effort{0.5, 0.1, 2}, minCalm / 2, false},
		{"and if it is enough for long", effort{0.5, 0.1, 2}, time.Minute, false},
		{"the next time", effort{0.5, 4, 2}, soon, true},
		{"a shorter queue remains, because there are more", effort{0.5, 1, 2}, time.Minute, true},
		{"it is tried as at first", effort{0.5, 0.1, 2}, minCalm + soon, false},
		{"others use the rest", effort{1, 4, 0.3}, time.Minute, false},
		{"for a moment they leave some", effort{1, 4, 0.6}, busyLook, false},
		{"they have ended", effort{1, 0.5, 2}, soon, true},
		{"they have begun again", effort{0.9, 4, 0.3}, 2*minCalm + soon, false},
	} {
		p.pace(step.effort, step.d)
		if p.wide != step.wide {
			t.Fatalf("%s: wide is %v", step.what, p.wide)
		}
	}
}

// The first look at a load that has begun after quiet sees some of that: processors are idle in it
// that now have others to serve.
func TestPacerAfterQuiet(t *testing.T) {
	first := effort{0.3, 2.2, 1}
	for _, then := range []struct {
		what string
		effort
		wide bool
	}{
		{"others work, too", effort{0.6, 3, 0.15}, false},
		{"others are idle", effort{0.95, 3, 1}, true},
	} {
		var p pacer
		p.look(quietLook, effort{idle: 2})
		if p.look(quietLook, first) {
			t.Errorf("%s: more than one at the first look", then.what)
		}
		if p.pace(then.effort, 5*busyLook); p.wide != then.wide {
			t.Errorf("%s: wide is %v", then.what, p.wide)
		}
	}
}

// A load that one processor can't carry and two carry easily does not have the number change all
// the time.
func TestPacerIsPatient(t *testing.T) {
	var p pacer
	changes := 0
	for range time.Hour / busyLook {
		e := effort{load: 1, idle: 2}
		if p.wide {
			e.load = 0.6
		}
		if p.look(busyLook, e) {
			changes++
		}
	}
	if limit := 2*int(time.Hour/maxCalm) + 20; changes > limit {
		t.Errorf("%d changes in an hour, want %d at the most", changes, limit)
	}
}

// Polling needs one processor of the node's own, and one that nobody else wants.
func TestPacerPolls(t *testing.T) {
	for _, c := range []struct {
		wide  bool
		idle  float64
		polls bool
	}{{false, 1, true}, {false, pollSpare, true}, {false, 0.05, false}, {true, 1, false}} {
		p := pacer{wide: c.wide, recent: effort{idle: c.idle}}
		if got := p.polls(); got != c.polls {
			t.Errorf("wide %v, %v idle: %v", c.wide, c.idle, got)
		}
	}
}
