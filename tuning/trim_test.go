package tuning

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Memory is given back once the process is quiet, and again only when it holds more than its
// working set.
func TestTrimmer(t *testing.T) {
	const mb = 1 << 20
	var tr trimmer
	var used time.Duration
	for n, step := range []struct {
		used     time.Duration // since the step before
		resident int64
		want     trimStep
	}{
		{200 * time.Millisecond, 24 * mb, watch}, // start
		{2 * time.Millisecond, 24 * mb, trim},
		{time.Millisecond, 9 * mb, watch}, // resident again, so this is the working set
		{time.Millisecond, 9 * mb, awaitDue},
		{time.Millisecond, 10 * mb, awaitDue},
		{time.Millisecond, 12 * mb, trim}, // little work that needed much memory
		{time.Millisecond, 9 * mb, watch},
		{900 * time.Millisecond, 90 * mb, watch}, // work
		{900 * time.Millisecond, 90 * mb, watch},
		{time.Millisecond, 90 * mb, trim},
		{900 * time.Millisecond, 90 * mb, watch}, // before the working set is known
		{time.Millisecond, 40 * mb, trim},
		{time.Millisecond, 40 * mb, watch},
		{time.Millisecond, 60 * mb, trim},
		{50 * time.Millisecond, 40 * mb, watch},
		{50 * time.Millisecond, 48 * mb, watch}, // some garbage
		{50 * time.Millisecond, 53 * mb, trim},  // more than that
		{50 * time.Millisecond, 44 * mb, watch},
		{150 * time.Millisecond, 90 * mb, watch}, // work
	} {
		used += step.used
		if got := tr.look(trimInterval, used, step.resident); got != step.want {
			t.Fatalf("step %d: got %v, want %v", n, got, step.want)
		}
	}
}

// fakeAlarm fires when the test says so.
type fakeAlarm struct {
	firec  chan struct{}
	awaits atomic.Int64
}

func (a *fakeAlarm) await(limit time.Duration, stopc <-chan struct{}) (worked bool) {
	var limitc <-chan time.Time
	if limit < forever {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		limitc = timer.C
	}
	a.awaits.Add(1)
	select {
	case <-a.firec:
		return true
	case <-limitc:
	case <-stopc:
	}
	return false
}

// fakeUsage is a process whose work and memory the test sets.
type fakeUsage struct {
	used, held     atomic.Int64
	looks, trimmed atomic.Int64
}

const workingSet = 9 << 20

func (u *fakeUsage) worked() time.Duration { return time.Duration(u.used.Load()) }
func (u *fakeUsage) resident() int64       { u.looks.Add(1); return u.held.Load() }
func (u *fakeUsage) giveBack()             { u.trimmed.Add(1); u.held.Store(workingSet) }

// runTrimmer runs a trimmer in a bubble.
func runTrimmer(t *testing.T, test func(u *fakeUsage, work *fakeAlarm)) {
	synctest.Test(t, func(t *testing.T) {
		u, work, stopc := new(fakeUsage), &fakeAlarm{firec: make(chan struct{})}, make(chan struct{})
		u.held.Store(24 << 20)
		var wg sync.WaitGroup
		wg.Go(func() { new(trimmer).run(u, work, stopc) })
		test(u, work)
		close(stopc)
		wg.Wait()
	})
}

// Memory is given back once after each piece of work. Some time later the trimmer does not look
// until the process works again.
func TestTrimmerRestsWithoutTimer(t *testing.T) {
	runTrimmer(t, func(u *fakeUsage, work *fakeAlarm) {
		for round := int64(1); round <= 3; round++ {
			time.Sleep(5 * trimInterval / 2)
			if got := u.trimmed.Load(); got != round {
				t.Errorf("round %d: memory was given back %d times", round, got)
			}
			looks := u.looks.Load()
			time.Sleep(3 * restAfter)
			if got := u.looks.Load() - looks; got > 20 {
				t.Errorf("round %d: %d looks in %v without work", round, got, 3*restAfter)
			}
			looks = u.looks.Load()
			time.Sleep(time.Hour)
			if got := u.looks.Load() - looks; got != 0 {
				t.Errorf("round %d: %d looks in an hour without work", round, got)
			}
			if got := u.trimmed.Load(); got != round {
				t.Errorf("round %d: memory was given back %d times, the last time without work", round, got)
			}
			u.used.Add(int64(time.Millisecond))
			u.held.Store(90 << 20)
			work.firec <- struct{}{}
		}
	})
}

// A quiet process that needs memory again and again does not give it back as often.
func TestTrimmerTrimsRarely(t *testing.T) {
	runTrimmer(t, func(u *fakeUsage, work *fakeAlarm) {
		for range time.Hour / (10 * time.Second) {
			u.held.Store(24 << 20)
			time.Sleep(10 * time.Second)
			select {
			case work.firec <- struct{}{}:
			default:
			}
		}
		if got, most := u.trimmed.Load(), int64(20+time.Hour/maxTrimPause); got > most {
			t.Errorf("memory was given back %d times in an hour, want %d at most", got, most)
		}
	})
}

// A process that works is looked at every second, so memory is given back soon after the end of the
// work, however long the process was quiet before.
func TestTrimmerWatchesWork(t *testing.T) {
	for _, quiet := range []time.Duration{0, 10 * time.Second, time.Minute, time.Hour} {
		runTrimmer(t, func(u *fakeUsage, work *fakeAlarm) {
			time.Sleep(3*trimInterval + quiet)
			work.firec <- struct{}{}
			awaits := work.awaits.Load()
			for range 600 {
				u.used.Add(int64(100 * time.Millisecond))
				u.held.Store(90 << 20)
				time.Sleep(100 * time.Millisecond)
			}
			if got := work.awaits.Load() - awaits; got != 0 {
				t.Errorf("quiet for %v: waited %d times during the work", quiet, got)
			}
			trimmed := u.trimmed.Load()
			time.Sleep(5 * trimInterval / 2)
			if got := u.trimmed.Load(); got != trimmed+1 {
				t.Errorf("quiet for %v: memory was given back %d times after the end of the work", quiet, got-trimmed)
			}
		})
	}
}

// The system tells what the process uses.
func TestUsage(t *testing.T) {
	needMeasurable(t)
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
