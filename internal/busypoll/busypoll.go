// Package busypoll has a process that waits for the network look for itself, for a moment, instead
// of sleeping until it is told.
//
// A processor that nobody needs sleeps too, and in a virtual machine it takes 20 to 50 us to wake
// it: longer than all else that a node does with a small packet, and a round trip through two nodes
// wakes four times. While packets follow each other closely the next one is met awake. That is paid
// for with processor time that nobody else wants: between two looks the processor is offered to
// others, and if they take it for long, or nothing comes for a moment, the process sleeps as ever.
//
// It works by keeping Go's scheduler busy. With nothing to run, a scheduler asks the kernel what
// has become readable, without waiting at first. A goroutine that becomes ready by just that, again
// and again, has it ask again and again; and whatever else is ready goes first.
//
// Goroutines: none; Poller.Run is one of its caller's.
package busypoll

import (
	"sync/atomic"
	"time"
)

const (
	// patience is for how long nothing may come, and how closely two have to follow each other in the
	// first place.
	patience = 250 * time.Microsecond

	// shared is how long a yield takes if another process has work for the processor. That may have
	// another processor, which is idle; so this one sleeps, and is woken on whichever is.
	shared = 20 * time.Microsecond

	// crowded is how long it takes if there is none, for nobody whose work is that of a packet goes on
	// for so long. Then the processor is left to others for pause, since whoever yields is behind all
	// of them.
	crowded = 200 * time.Microsecond
	pause   = 20 * time.Millisecond

	// lookCost is what a look takes at the most. If it took longer, others of this process have run
	// meanwhile.
	lookCost = 5 * time.Microsecond
)

// Poller keeps one process awake. It does so only where there is one P: with more, a scheduler that
// finds two goroutines ready wakes another thread for one of them, and the poller's is always
// ready.
type Poller struct {
	start   time.Time // of the clock
	allowed atomic.Bool
	asleep  atomic.Bool   // run waits for wakec
	wakec   chan struct{} // sent to by whoever clears asleep
	last    atomic.Int64  // when something was last active, by the clock
	until   atomic.Int64  // when there is no more reason to look
	spent   atomic.Int64
}

// New returns a Poller that does nothing until it is allowed to and runs.
func New() *Poller { return &Poller{start: time.Now(), wakec: make(chan struct{}, 1)} }

// Allow says whether to look. Any goroutine may call it.
func (p *Poller) Allow(allowed bool) { p.allowed.Store(allowed) }

// Active says that a packet has come or gone. After one of a dialogue another is expected; not so
// of bulk, in which nobody waits for a single packet, and which would be looked for all the time.
// Any goroutine may call it.
func (p *Poller) Active(dialogue bool) {
	if !p.allowed.Load() {
		return
	}
	now := p.now()
	before := p.last.Swap(now)
	if !dialogue {
		return
	}
	p.until.Store(now + int64(patience))
	if now-before < int64(patience) && p.asleep.Load() && p.asleep.CompareAndSwap(true, false) {
		p.wakec <- struct{}{} // has room: it was empty when asleep was set
	}
}

// Spent is how much processor time has gone into looking, about.
func (p *Poller) Spent() time.Duration { return time.Duration(p.spent.Load()) }

func (p *Poller) now() int64 { return int64(time.Since(p.start)) }

// system is what an operating system has to offer for it.
type system interface {
	yield() // to other processes that are ready
	await() // what the kernel has; it returns when all of that has run that became ready
	close()
}

// Run looks whenever there is reason to, until stopc is closed. An error says that this system has
// no way to. It can be called once.
func (p *Poller) Run(stopc <-chan struct{}) error {
	sys, err := newSystem()
	if err != nil {
		return err
	}
	defer sys.close()
	p.run(sys, stopc)
	return nil
}

func (p *Poller) run(sys system, stopc <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		p.asleep.Store(true)
		select {
		case <-p.wakec:
		case <-stopc:
			return
		}
		if p.look(sys, stopc) {
			continue
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-stopc:
			return
		}
	}
}

// look goes on until nothing of a dialogue has come for a moment, or somebody else works here; it
// reports false if others want the processor for long.
func (p *Poller) look(sys system, stopc <-chan struct{}) bool {
	for began := p.now(); ; {
		sys.yield()
		now := p.now()
		switch {
		case now-began > int64(crowded):
			return false
		case now-began > int64(shared), now > p.until.Load(), !p.allowed.Load(), isClosed(stopc):
			return true
		}
		sys.await()
		ended := p.now()
		p.spent.Add(min(ended-began, int64(lookCost)))
		began = ended
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
