package tuning

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakePoller is a poller whose clock is the bubble's. A poll takes step.
type fakePoller struct {
	yieldFor atomic.Int64 // for how long other processes keep the processor, in ns
	polls    atomic.Int64
}

const step = time.Microsecond

func (f *fakePoller) yield() { time.Sleep(time.Duration(f.yieldFor.Load())) }
func (f *fakePoller) poll()  { f.polls.Add(1); time.Sleep(step) }
func (f *fakePoller) close() {}

// runSpinner calls test with a spinner that runs with f in a bubble, once it sleeps.
func runSpinner(t *testing.T, f *fakePoller, test func(s *spinner)) {
	synctest.Test(t, func(t *testing.T) {
		s, stopc := newSpinner(), make(chan struct{})
		s.allow()
		time.Sleep(time.Second) // the clock begins at 0, which would be a packet that has just passed
		var wg sync.WaitGroup
		wg.Go(func() { s.run(f, stopc) })
		synctest.Wait()
		test(s)
		close(stopc)
		wg.Wait()
	})
}

// pass has two packets of a dialogue pass, d after each other, and waits after them.
func (s *spinner) pass(d, wait time.Duration) {
	s.dialogue()
	time.Sleep(d)
	s.dialogue()
	time.Sleep(wait)
}

// Two packets that follow each other closely begin to spin, and each further one goes on.
func TestSpinnerSpinsForAMoment(t *testing.T) {
	f := &fakePoller{}
	runSpinner(t, f, func(s *spinner) {
		s.pass(spinFor, time.Second)
		if n := f.polls.Load(); n != 0 {
			t.Errorf("%d polls after packets that do not follow closely", n)
		}
		s.pass(spinFor-1, time.Second)
		n := f.polls.Load()
		if most := int64(spinFor/step) + 1; n < most-1 || n > most {
			t.Errorf("%d polls of %v within %v", n, step, spinFor)
		}
		if got, want := s.spentTime(), time.Duration(n)*step; got != want {
			t.Errorf("they took %v, want %v", got, want)
		}
		s.dialogue()
		time.Sleep(spinFor / 2)
		s.dialogue()
		time.Sleep(spinFor / 2)
		s.dialogue() // it spins already, and goes on
		time.Sleep(time.Second)
		if got, least := f.polls.Load()-n, int64(spinFor/step)*5/4; got < least {
			t.Errorf("%d polls, want %d or more", got, least)
		}
	})
}

// There is no spinning for bulk, but a question may follow a long answer.
func TestSpinnerOfBulk(t *testing.T) {
	f := &fakePoller{}
	runSpinner(t, f, func(s *spinner) {
		s.bulk()
		s.dialogue()
		time.Sleep(2 * spinFor)
		n := f.polls.Load()
		if n == 0 {
			t.Error("no polls after a question")
		}
		for range 10 {
			s.bulk()
			time.Sleep(step)
		}
		if got := f.polls.Load(); got != n {
			t.Errorf("%d polls for bulk", got-n)
		}
	})
}

// A poll that takes longer than maxPollCost has run other goroutines, whose time is not counted.
func TestSpinnerSpentTime(t *testing.T) {
	f := &fakePoller{}
	f.yieldFor.Store(int64(2 * maxPollCost))
	runSpinner(t, f, func(s *spinner) {
		s.pass(1, time.Second)
		n := f.polls.Load()
		if got, want := s.spentTime(), time.Duration(n)*maxPollCost; n == 0 || got != want {
			t.Errorf("%d polls took %v, want %v", n, got, want)
		}
	})
}

// While another process works on this processor the spinner sleeps, to be woken on another one.
func TestSpinnerSharesProcessor(t *testing.T) {
	f := &fakePoller{}
	f.yieldFor.Store(int64(yieldShared + 1))
	runSpinner(t, f, func(s *spinner) {
		s.pass(1, spinFor/2)
		if n := f.polls.Load(); n != 0 || !s.asleep.Load() {
			t.Errorf("%d polls, asleep %v", n, s.asleep.Load())
		}
		f.yieldFor.Store(0)
		s.pass(1, spinFor/2)
		if f.polls.Load() == 0 {
			t.Error("no polls although the processor is free")
		}
	})
}

// After a long yield there is no spinning for a while.
func TestSpinnerPausesWhenCrowded(t *testing.T) {
	f := &fakePoller{}
	f.yieldFor.Store(int64(yieldCrowded + 1))
	runSpinner(t, f, func(s *spinner) {
		s.pass(1, pauseAfterCrowded/2)
		if n := f.polls.Load(); n != 0 {
			t.Errorf("%d polls while others want the processor", n)
		}
		f.yieldFor.Store(0)
		s.pass(1, pauseAfterCrowded/4)
		if n := f.polls.Load(); n != 0 {
			t.Errorf("%d polls during the pause", n)
		}
		time.Sleep(pauseAfterCrowded)
		s.pass(1, time.Second)
		if f.polls.Load() == 0 {
			t.Error("no polls after the pause")
		}
	})
}

func TestSpinnerForbidden(t *testing.T) {
	f := &fakePoller{}
	runSpinner(t, f, func(s *spinner) {
		s.forbid()
		s.pass(1, time.Second)
		if n := f.polls.Load(); n != 0 {
			t.Errorf("%d polls", n)
		}
		s.allow()
		s.dialogue()
		s.dialogue()
		time.Sleep(10 * step)
		s.forbid()
		time.Sleep(2 * step)
		before := f.polls.Load()
		time.Sleep(spinFor / 2)
		if after := f.polls.Load(); before == 0 || after != before {
			t.Errorf("%d polls while allowed, %d after", before, after-before)
		}
	})
}

// A spinner ends although packets follow each other, and during a pause.
func TestSpinnerEnds(t *testing.T) {
	f := &fakePoller{}
	runSpinner(t, f, func(s *spinner) {
		s.pass(1, spinFor/2)
		if f.polls.Load() == 0 {
			t.Error("no polls")
		}
	}) // does not return if it does not end
	f.yieldFor.Store(int64(time.Second))
	runSpinner(t, f, func(s *spinner) { s.pass(1, time.Second+pauseAfterCrowded/2) })
}
