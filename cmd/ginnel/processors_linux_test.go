package main

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeMeter is a node whose effort the test sets.
type fakeMeter struct {
	at    time.Time
	now   atomic.Pointer[effort]
	reads atomic.Int64
}

func (m *fakeMeter) read() (time.Duration, effort) {
	m.reads.Add(1)
	elapsed := time.Since(m.at)
	m.at = time.Now()
	return elapsed, *m.now.Load()
}

// runPacer runs a pacer in a bubble. Wide is what the pacer has decided last.
func runPacer(t *testing.T, test func(m *fakeMeter, work *fakeAlarm, wide *atomic.Bool)) {
	synctest.Test(t, func(t *testing.T) {
		m, work, stopc := &fakeMeter{at: time.Now()}, &fakeAlarm{firec: make(chan struct{})}, make(chan struct{})
		var wide atomic.Bool
		m.now.Store(&effort{idle: 2})
		var wg sync.WaitGroup
		wg.Go(func() { new(pacer).run(m, work, func(p *pacer) { wide.Store(p.wide) }, stopc) })
		test(m, work, &wide)
		close(stopc)
		wg.Wait()
	})
}

// A node without work is not looked at.
func TestPacerRestsWithoutTimer(t *testing.T) {
	runPacer(t, func(m *fakeMeter, _ *fakeAlarm, _ *atomic.Bool) {
		time.Sleep(time.Second)
		reads := m.reads.Load()
		time.Sleep(time.Hour)
		if got := m.reads.Load() - reads; got != 0 {
			t.Errorf("%d looks in an hour without work", got)
		}
	})
}

// When load begins a node soon has all processors, and some time after its end only one, without a
// look after that.
func TestPacerFollowsLoad(t *testing.T) {
	const soon = 400 * time.Millisecond
	runPacer(t, func(m *fakeMeter, work *fakeAlarm, wide *atomic.Bool) {
		for round := range 3 {
			time.Sleep(time.Hour)
			m.now.Store(&effort{load: 1, queue: 2, idle: 2})
			work.firec <- struct{}{}
			time.Sleep(soon)
			if !wide.Load() {
				t.Errorf("round %d: one processor %v after the load began", round, soon)
			}
			time.Sleep(time.Minute)
			m.now.Store(&effort{idle: 2})
			time.Sleep(maxCalm + soon)
			if wide.Load() {
				t.Errorf("round %d: all processors %v after the load ended", round, maxCalm+soon)
			}
			reads := m.reads.Load()
			time.Sleep(time.Hour)
			if got := m.reads.Load() - reads; got != 0 {
				t.Errorf("round %d: %d looks in an hour after the load", round, got)
			}
		}
	})
}

// Some work is too little to rest and too little for more than one processor: it is looked at a few
// times a second.
func TestPacerWatchesLittleWork(t *testing.T) {
	runPacer(t, func(m *fakeMeter, work *fakeAlarm, wide *atomic.Bool) {
		m.now.Store(&effort{load: 2 * restLoad, idle: 2})
		time.Sleep(time.Second)
		reads, awaits := m.reads.Load(), work.awaits.Load()
		time.Sleep(time.Minute)
		if got, want := m.reads.Load()-reads, int64(time.Minute/quietLook); got < want-1 || got > want+1 {
			t.Errorf("%d looks in a minute, want %d", got, want)
		}
		if got := work.awaits.Load() - awaits; got != 0 || wide.Load() {
			t.Errorf("%d rests, all processors: %v", got, wide.Load())
		}
	})
}

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
