package main

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// What a process does shows in what is measured of it.
func TestEffortMeter(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	m := newEffortMeter(func() time.Duration { return 0 })
	defer m.close()
	var wg sync.WaitGroup
	end := time.Now().Add(100 * time.Millisecond)
	for range 8 {
		wg.Go(func() {
			for time.Now().Before(end) {
				runtime.Gosched() // waits for the seven others
			}
		})
	}
	wg.Wait()
	elapsed, e := m.read()
	if elapsed < 100*time.Millisecond || e.load <= 0 || e.load > 1.5 {
		t.Errorf("%v of work are a load of %v in %v", 100*time.Millisecond, e.load, elapsed)
	}
	if e.queue < 2 || e.queue > 14 {
		t.Errorf("8 goroutines that take turns are a queue of %v", e.queue)
	}
	if e.idle < 0 || e.idle > float64(runtime.NumCPU()) {
		t.Errorf("%v processors of %d are idle", e.idle, runtime.NumCPU())
	}
	if n := testing.AllocsPerRun(10, func() { m.read() }); n > 0 {
		t.Errorf("a look allocates %v times", n)
	}
}

// What is polled away is no load, and counts as idle.
func TestEffortMeterOfPolling(t *testing.T) {
	polled := 10 * time.Second
	m := newEffortMeter(func() time.Duration { return polled })
	defer m.close()
	for _, add := range []time.Duration{0, time.Hour} {
		polled += add
		_, e := m.read()
		if add > 0 && (e.load != 0 || e.idle != float64(runtime.NumCPU())) {
			t.Errorf("a load of %v, %v of %d idle after %v of polling", e.load, e.idle, runtime.NumCPU(), add)
		}
	}
}

func TestIdleOf(t *testing.T) {
	for text, want := range map[string]float64{
		"350735.47 234388.90\n":     234388.90,
		"9.00 98765432109.87\n":     98765432109.87,
		"1.00 0.00\n":               0,
		"1.00\n":                    0,
		"":                          0,
		"350735.47 two weeks ago\n": 0,
	} {
		if got := idleOf([]byte(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
