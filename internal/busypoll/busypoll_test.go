package busypoll

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a system whose clock is the bubble's. A look takes step.
type fake struct {
	yieldFor atomic.Int64 // for how long others keep the processor, in ns
	looks    atomic.Int64
}

const step = time.Microsecond

func (f *fake) yield() { time.Sleep(time.Duration(f.yieldFor.Load())) }
func (f *fake) await() { f.looks.Add(1); time.Sleep(step) }
func (f *fake) close() {}

// bubble calls test with a Poller that runs with f, once it sleeps.
func bubble(t *testing.T, f *fake, test func(p *Poller)) {
	synctest.Test(t, func(t *testing.T) {
		p, stopc, done := New(), make(chan struct{}), make(chan struct{})
		p.Allow(true)
		time.Sleep(time.Second) // nothing was active a moment ago
		go func() {
			p.run(f, stopc)
			close(done)
		}()
		synctest.Wait()
		test(p)
		close(stopc)
		<-done
	})
}

// follow has two packets follow each other after d, and waits for what comes of it.
func (p *Poller) follow(d, wait time.Duration) {
	p.Active(true)
	time.Sleep(d)
	p.Active(true)
	time.Sleep(wait)
}

func TestPollerLooksForAMoment(t *testing.T) {
	f := &fake{}
	bubble(t, f, func(p *Poller) {
		p.follow(patience, time.Second)
		if n := f.looks.Load(); n != 0 {
			t.Errorf("%d looks after packets that do not follow closely", n)
		}
		p.follow(patience-1, time.Second)
		n := f.looks.Load()
		if most := int64(patience/step) + 1; n < most-1 || n > most {
			t.Errorf("%d looks of %v within %v", n, step, patience)
		}
		if got, want := p.Spent(), time.Duration(n)*step; got != want {
			t.Errorf("they took %v, want %v", got, want)
		}
		p.Active(true)
		time.Sleep(patience / 2)
		p.Active(true)
		time.Sleep(patience / 2)
		p.Active(true) // it is awake already, and stays so
		time.Sleep(time.Second)
		if got, least := f.looks.Load()-n, int64(patience/step)*5/4; got < least {
			t.Errorf("%d looks, want %d and more", got, least)
		}
	})
}

// Bulk is not looked for, but a question may follow a long answer.
func TestPollerOfBulk(t *testing.T) {
	f := &fake{}
	bubble(t, f, func(p *Poller) {
		p.Active(false)
		p.Active(true)
		time.Sleep(2 * patience)
		n := f.looks.Load()
		if n == 0 {
			t.Error("no looks after a question")
		}
		for range 10 {
			p.Active(false)
			time.Sleep(step)
		}
		if got := f.looks.Load(); got != n {
			t.Errorf("%d looks for bulk", got-n)
		}
	})
}

// What takes longer than a look was not polled away: others have run.
func TestPollerSpent(t *testing.T) {
	f := &fake{}
	f.yieldFor.Store(int64(2 * lookCost))
	bubble(t, f, func(p *Poller) {
		p.follow(1, time.Second)
		n := f.looks.Load()
		if got, want := p.Spent(), time.Duration(n)*lookCost; n == 0 || got != want {
			t.Errorf("%d looks took %v, want %v", n, got, want)
		}
	})
}

// While somebody else works on this processor the poller sleeps, to be woken on another.
func TestPollerMakesRoom(t *testing.T) {
	f := &fake{}
	f.yieldFor.Store(int64(shared + 1))
	bubble(t, f, func(p *Poller) {
		p.follow(1, patience/2)
		if n := f.looks.Load(); n != 0 || !p.asleep.Load() {
			t.Errorf("%d looks, asleep %v", n, p.asleep.Load())
		}
		f.yieldFor.Store(0)
		p.follow(1, patience/2)
		if f.looks.Load() == 0 {
			t.Error("no looks although there is room")
		}
	})
}

func TestPollerGivesWay(t *testing.T) {
	f := &fake{}
	f.yieldFor.Store(int64(crowded + 1))
	bubble(t, f, func(p *Poller) {
		p.follow(1, pause/2)
		if n := f.looks.Load(); n != 0 {
			t.Errorf("%d looks while others want the processor", n)
		}
		f.yieldFor.Store(0)
		p.follow(1, pause/4)
		if n := f.looks.Load(); n != 0 {
			t.Errorf("%d looks during the pause", n)
		}
		time.Sleep(pause)
		p.follow(1, time.Second)
		if f.looks.Load() == 0 {
			t.Error("no looks after the pause")
		}
	})
}

func TestPollerIsNotAllowed(t *testing.T) {
	f := &fake{}
	bubble(t, f, func(p *Poller) {
		p.Allow(false)
		p.follow(1, time.Second)
		if n := f.looks.Load(); n != 0 {
			t.Errorf("%d looks", n)
		}
		p.Allow(true)
		p.Active(true)
		p.Active(true)
		time.Sleep(10 * step)
		p.Allow(false)
		time.Sleep(2 * step)
		before := f.looks.Load()
		time.Sleep(patience / 2)
		if after := f.looks.Load(); before == 0 || after != before {
			t.Errorf("%d looks while allowed, %d after", before, after-before)
		}
	})
}

// A poller ends although packets go on to follow each other.
func TestPollerEnds(t *testing.T) {
	f := &fake{}
	bubble(t, f, func(p *Poller) {
		p.follow(1, patience/2)
		if f.looks.Load() == 0 {
			t.Error("no looks")
		}
	}) // would not return
	f.yieldFor.Store(int64(time.Second))
	bubble(t, f, func(p *Poller) { p.follow(1, time.Second+pause/2) })
}
