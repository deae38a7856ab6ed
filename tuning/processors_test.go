package tuning

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeMeter is a process whose load the test sets.
type fakeMeter struct {
	at    time.Time
	now   atomic.Pointer[load]
	reads atomic.Int64
}

func (m *fakeMeter) read() (time.Duration, load) {
	m.reads.Add(1)
	elapsed := time.Since(m.at)
	m.at = time.Now()
	return elapsed, *m.now.Load()
}

// runPolicy runs a policy in a bubble. useAll is its last decision.
func runPolicy(t *testing.T, test func(m *fakeMeter, work *fakeAlarm, useAll *atomic.Bool)) {
	synctest.Test(t, func(t *testing.T) {
		m, work, stopc := &fakeMeter{at: time.Now()}, &fakeAlarm{firec: make(chan struct{})}, make(chan struct{})
		var useAll atomic.Bool
		m.now.Store(&load{idle: 2})
		var wg sync.WaitGroup
		wg.Go(func() { new(policy).run(m, work, func(p *policy) { useAll.Store(p.useAll) }, stopc) })
		test(m, work, &useAll)
		close(stopc)
		wg.Wait()
	})
}

// While the process does nothing its load is not measured.
func TestPolicyStopsMeasuring(t *testing.T) {
	runPolicy(t, func(m *fakeMeter, _ *fakeAlarm, _ *atomic.Bool) {
		time.Sleep(time.Second)
		reads := m.reads.Load()
		time.Sleep(time.Hour)
		if got := m.reads.Load() - reads; got != 0 {
			t.Errorf("%d measurements in an hour without work", got)
		}
	})
}

// Soon after load begins the process has all Ps, and some time after its end one P, without
// measurements from then on.
func TestPolicyFollowsLoad(t *testing.T) {
	const soon = 400 * time.Millisecond
	runPolicy(t, func(m *fakeMeter, work *fakeAlarm, useAll *atomic.Bool) {
		for round := range 3 {
			time.Sleep(time.Hour)
			m.now.Store(&load{used: 1, queued: 2, idle: 2})
			work.firec <- struct{}{}
			time.Sleep(soon)
			if !useAll.Load() {
				t.Errorf("round %d: one P %v after the load began", round, soon)
			}
			time.Sleep(time.Minute)
			m.now.Store(&load{idle: 2})
			time.Sleep(maxHold + soon)
			if useAll.Load() {
				t.Errorf("round %d: all Ps %v after the load ended", round, maxHold+soon)
			}
			reads := m.reads.Load()
			time.Sleep(time.Hour)
			if got := m.reads.Load() - reads; got != 0 {
				t.Errorf("round %d: %d measurements in an hour after the load", round, got)
			}
		}
	})
}

// A little work is too much to stop measuring and too little for all Ps: it is measured a few times
// a second.
func TestPolicyMeasuresLittleWork(t *testing.T) {
	runPolicy(t, func(m *fakeMeter, work *fakeAlarm, useAll *atomic.Bool) {
		m.now.Store(&load{used: 2 * idleUsed, idle: 2})
		time.Sleep(time.Second)
		reads, awaits := m.reads.Load(), work.awaits.Load()
		time.Sleep(time.Minute)
		if got, want := m.reads.Load()-reads, int64(time.Minute/quietInterval); got < want-1 || got > want+1 {
			t.Errorf("%d measurements in a minute, want %d", got, want)
		}
		if got := work.awaits.Load() - awaits; got != 0 || useAll.Load() {
			t.Errorf("waited for work %d times, all Ps: %v", got, useAll.Load())
		}
	})
}
