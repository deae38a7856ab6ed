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
	m := newEffortMeter()
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
	if n := testing.AllocsPerRun(10, func() { m.read() }); n > 0 {
		t.Errorf("a look allocates %v times", n)
	}
}
