package tuning

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
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
// Gain (docs/performance.md): with one P until that is full, round trips take a quarter less
// processor time than with all Ps. Two nodes on two processors make more short connections than
// with one P for good, 1385 instead of 1323 a second. While other processes leave less than half a
// processor idle, one P takes 4 to 12 % less processor time per GB than all. Together with Yield,
// against --tuning off (go1.26.8): 1 connection down 1076 → 1888 Mbit/s, 5.56 → 3.60 s per GB,
// median round trip 326 → 268 us.
//
// Benchmark: make bench-peers PEERS='-only ginnel -steps ^(trips|requests|down)', with GOMAXPROCS=2
// in the environment of one of two runs. When GOMAXPROCS=2 is as good in all figures, this can go.

// onePMemory is the budget below which a process has one P for good. Each P has pools of its own,
// and several of them receive packets before the earlier ones are worked on.
const onePMemory = 64 << 20

// procs is GOMAXPROCS. All that set it go through here.
type procs struct {
	one atomic.Bool // GOMAXPROCS is 1; read without mu

	mu    sync.Mutex
	owned bool // GOMAXPROCS is set here, from the first useOne until restore
	all   bool // the last choice
	holds int  // calls of WithAllPs that have not returned
}

func (p *procs) useOne() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owned, p.all = true, false
	p.applyLocked()
}

func (p *procs) useAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = true
	p.applyLocked()
}

func (p *procs) hold(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds += n
	p.applyLocked()
}

func (p *procs) restore() {
	p.useAll()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owned = false
	p.one.Store(false)
}

func (p *procs) applyLocked() {
	switch all := p.all || p.holds > 0; {
	case !p.owned:
	case all:
		runtime.SetDefaultGOMAXPROCS() // which follows the limit of the control group from then on
		p.one.Store(runtime.GOMAXPROCS(0) == 1)
	default:
		runtime.GOMAXPROCS(1)
		p.one.Store(true)
	}
}

// WithAllPs calls f while GOMAXPROCS is not lowered, and returns its error. A node is made that
// way, because gVisor starts as many TCP workers as there are Ps when a stack is made.
func (p *Process) WithAllPs(f func() error) error {
	if p == nil {
		return f()
	}
	p.procs.hold(1)
	defer p.procs.hold(-1)
	return f()
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
			a.p.procs.useAll()
		} else {
			a.p.procs.useOne()
		}
	}
	if a.mayEverSpin && decided.maySpin() {
		a.p.spinner.allow()
	} else {
		a.p.spinner.forbid()
	}
}
