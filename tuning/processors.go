package tuning

import (
	"os"
	"runtime"
	"time"
)

// This file sets GOMAXPROCS, as policy.go decides.
//
// Why: with several Ps the scheduler wakes another thread whenever a goroutine becomes ready. A
// packet makes two or three goroutines ready that have little to do, so waking a thread costs more
// than their work. A process therefore keeps to one P until that has no time left or goroutines
// queue for it. Then it takes all Ps, unless other processes occupy the processors already: more
// threads would only compete with them.
//
// Gain (docs/performance.md): round trips take a quarter less processor time, and two nodes on two
// processors make twice as many short connections as with all Ps, with 5 % more than with one P for
// good.
//
// Benchmark: make bench-peers PEERS='-only ginnel -steps ^(trips|requests|down)', with GOMAXPROCS=2
// in the environment of one of two runs. When GOMAXPROCS=2 is as good in all figures, this can go.

// onePMemory is the budget below which a process has one P for good. Each P has pools of its own,
// and several of them receive packets before the earlier ones are worked on.
const onePMemory = 64 << 20

func (p *Process) useOneP() {
	runtime.GOMAXPROCS(1)
	p.changed = true
	p.oneP.Store(true)
}

func (p *Process) useAllPs() {
	runtime.SetDefaultGOMAXPROCS() // which follows the limit of the control group from then on
	p.oneP.Store(runtime.GOMAXPROCS(0) == 1)
}

func (p *Process) restoreProcessors() {
	if p.changed {
		runtime.SetDefaultGOMAXPROCS()
	}
	p.oneP.Store(false)
}

// chooseProcessors chooses until Close.
func (p *Process) chooseProcessors() {
	m := newLoadMeter(p.spinner.spentTime)
	defer m.close()
	a := applier{p: p, mayEverSpin: !groupTimeLimited(os.DirFS("/"))} // spinning uses up limited time
	new(policy).run(m, newWorkAlarm(), a.apply, p.stopc)
}

// meter measures the load since the last read. *loadMeter implements it.
type meter interface {
	read() (elapsed time.Duration, l load)
}

// run measures the load and has apply act on each decision, until stopc is closed. While nothing
// has to be decided, no timer runs.
func (p *policy) run(m meter, work alarm, apply func(*policy), stopc <-chan struct{}) {
	timer := time.NewTimer(busyInterval)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-stopc:
			return
		}
		elapsed, l := m.read()
		p.update(elapsed, l)
		apply(p)
		next := interval(l.used)
		if p.mayStop(elapsed, l) {
			work.await(forever, stopc)
			p.update(m.read()) // so that the next measurement does not include the pause
			next = busyInterval
		}
		timer.Reset(next)
	}
}

// applier does what a policy has decided.
type applier struct {
	p           *Process
	mayEverSpin bool
	useAll      bool // as applied
}

func (a *applier) apply(decided *policy) {
	if decided.useAll != a.useAll {
		a.useAll = decided.useAll
		if a.useAll {
			a.p.useAllPs()
		} else {
			a.p.useOneP()
		}
	}
	if a.mayEverSpin && decided.maySpin() {
		a.p.spinner.allow()
	} else {
		a.p.spinner.forbid()
	}
}
