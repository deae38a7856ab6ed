package main

import (
	"testing"
	"time"
)

// A node gives back when it has become quiet, once, and again only when it holds more than what came back by itself.
func TestIdler(t *testing.T) {
	const mb = 1 << 20
	var i idler
	var used time.Duration
	for n, step := range []struct {
		used     time.Duration // since the step before
		resident int64
		want     bool
	}{
		{200 * time.Millisecond, 24 * mb, false}, // it starts
		{2 * time.Millisecond, 24 * mb, true},
		{time.Millisecond, 9 * mb, false}, // this came back, so it is needed
		{time.Millisecond, 9 * mb, false},
		{time.Millisecond, 10 * mb, false},
		{time.Millisecond, 12 * mb, true}, // little work that needed much
		{time.Millisecond, 9 * mb, false},
		{900 * time.Millisecond, 90 * mb, false}, // work
		{900 * time.Millisecond, 90 * mb, false},
		{time.Millisecond, 90 * mb, true},
		{900 * time.Millisecond, 90 * mb, false}, // before it is known what was needed
		{time.Millisecond, 40 * mb, true},
		{time.Millisecond, 40 * mb, false},
		{time.Millisecond, 60 * mb, true},
		{50 * time.Millisecond, 40 * mb, false},
		{50 * time.Millisecond, 48 * mb, false}, // some garbage
		{50 * time.Millisecond, 53 * mb, true},  // more than that
		{50 * time.Millisecond, 44 * mb, false},
		{150 * time.Millisecond, 90 * mb, false}, // work
	} {
		used += step.used
		if got := i.look(used, step.resident); got != step.want {
			t.Fatalf("step %d: got %v", n, got)
		}
	}
}

// The system tells what the process uses.
func TestUsage(t *testing.T) {
	before := processorTime()
	for start := time.Now(); time.Since(start) < 30*time.Millisecond; {
	}
	if got := processorTime() - before; got <= 0 {
		t.Errorf("30 ms of work cost %v", got)
	}
	if got := residentMemory(); got < 1<<20 {
		t.Errorf("%d bytes are resident", got)
	}
}
