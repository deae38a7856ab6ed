package main

import (
	"testing"
	"time"
)

// pace feeds a load for some time and returns how often the number of processors changed.
func (p *pacer) pace(load float64, d time.Duration) (changes int) {
	for range d / busyLook {
		if p.look(busyLook, load) {
			changes++
		}
	}
	return changes
}

func TestPacer(t *testing.T) {
	var p pacer
	for _, step := range []struct {
		what string
		load float64
		d    time.Duration
		wide bool
	}{
		{"one is enough", 0.85, time.Minute, false},
		{"it has no time left", 0.95, busyLook, true},
		{"the load is for more", 1.6, time.Minute, true},
		{"it is calm, for a moment", 0.5, minCalm - busyLook, true},
		{"and is not", 0.75, busyLook, true},
		{"it is calm", 0.5, minCalm - busyLook, true},
		{"for long", 0.5, busyLook, false},
		{"one was enough for a moment only", 1, busyLook, true},
		{"so that it is not tried as soon", 0.5, 2*minCalm - busyLook, true},
		{"but then", 0.5, busyLook, false},
		{"and if it is enough for long", 0.5, time.Minute, false},
		{"the next time", 1, busyLook, true},
		{"it is tried as at first", 0.5, minCalm, false},
	} {
		p.pace(step.load, step.d)
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
		load := 1.0
		if p.wide {
			load = 0.6
		}
		if p.look(busyLook, load) {
			changes++
		}
	}
	if limit := 2*int(time.Hour/maxCalm) + 20; changes > limit {
		t.Errorf("%d changes in an hour, want %d at the most", changes, limit)
	}
}
