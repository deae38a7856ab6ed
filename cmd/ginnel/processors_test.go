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
		what        string
		load, queue float64
		d           time.Duration
		wide        bool
	}{
		{"one is enough", 0.9, 0.5, time.Minute, false},
		{"for a moment it is not", 1, 0.5, busyLook, false},
		{"it has no time left", 1, 0.5, soon, true},
		{"the effort is for more", 1.6, 0.5, time.Minute, true},
		{"it is calm, for a moment", 0.5, 0.1, minCalm / 2, true},
		{"and is not", 0.9, 0.1, soon, true},
		{"it is calm", 0.5, 0.1, minCalm * 9 / 10, true},
		{"for long", 0.5, 0.1, soon, false},
		{"after a moment there is a queue", 0.5, 4, soon, true},
		{"so that one is not tried as soon", 0.5, 0.1, 2 * minCalm * 9 / 10, true},
		{"but then", 0.5, 0.1, minCalm / 2, false},
		{"and if it is enough for long", 0.5, 0.1, time.Minute, false},
		{"the next time", 0.5, 4, soon, true},
		{"a shorter queue remains, because there are more", 0.5, 1, time.Minute, true},
		{"it is tried as at first", 0.5, 0.1, minCalm + soon, false},
	} {
		p.pace(effort{step.load, step.queue}, step.d)
		if p.wide != step.wide {
			t.Fatalf("%s: wide is %v", step.what, p.wide)
		}
	}
}

// A load that one processor can't carry and two carry easily does not have the number change all the time.
func TestPacerIsPatient(t *testing.T) {
	var p pacer
	changes := 0
	for range time.Hour / busyLook {
		e := effort{load: 1}
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
