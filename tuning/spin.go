package tuning

import (
	"sync/atomic"
	"time"
)

// This file has a process that waits for the network poll it for a moment, instead of sleeping
// until the kernel wakes it.
//
// Why: a processor that nobody needs sleeps, and in a virtual machine it takes 20 to 50 us to wake
// it. That is longer than everything else that a node does with a small packet, and a round trip
// through two nodes wakes processors four times. While packets of a dialogue follow each other
// closely, the process polls the network, so that the next packet finds it awake. The cost is
// processor time that nobody else wants: between two polls the processor is offered to other
// processes. If they take it for long, or if no packet comes for a moment, the process sleeps.
//
// How: it keeps Go's scheduler busy. A P without runnable goroutines first polls the network
// without blocking. A goroutine that becomes ready by that poll, again and again, makes the
// scheduler poll again and again, and all other ready goroutines run in between. This works with
// one P only: with more, a scheduler that finds two goroutines ready wakes another thread for one
// of them, and the spinning goroutine is always ready.
//
// Gain (docs/performance.md): median round trip 176 → 115 us, 99th percentile 365 → 221 us, for 116
// → 155 us of processor time; short connections, 1 at a time, 1394 → 1523 a second.
//
// That was measured on a machine with idle processors. Without any, the policy forbids spinning,
// and a build without it does as well (go1.26.8: 226 and 227 us).
//
// Benchmark: make bench-peers PEERS='-only ginnel -steps ^(trips|requests1)$', with a build whose
// maySpin returns false as -before. BenchmarkSpin here is the cost of one poll.

const (
	// spinFor is how long spinning goes on without a packet. Packets that follow each other within
	// that time begin it.
	spinFor = 250 * time.Microsecond

	// A yield that takes longer than yieldShared has let another process work on this processor. The
	// process then sleeps, because when it is woken the kernel chooses a processor, perhaps an idle
	// one.
	yieldShared = 20 * time.Microsecond

	// A yield that takes longer than yieldCrowded has run a process that computes, because no process
	// works on one packet for so long. Then there is no spinning for pauseAfterCrowded: whoever
	// yields is last in the queue behind all of them.
	yieldCrowded      = 200 * time.Microsecond
	pauseAfterCrowded = 20 * time.Millisecond

	// maxPollCost is what one poll costs at most. If it takes longer, other goroutines have run.
	maxPollCost = 5 * time.Microsecond
)

// spinner polls the network for one process.
type spinner struct {
	start   time.Time // of the clock
	allowed atomic.Bool
	asleep  atomic.Bool   // run waits for wakec
	wakec   chan struct{} // sent to by whoever clears asleep
	last    atomic.Int64  // when the last packet passed, by the clock
	until   atomic.Int64  // when spinning ends unless a packet passes before
	spent   atomic.Int64  // see spentTime
}

// newSpinner returns a spinner that does nothing until it is allowed to and runs.
func newSpinner() *spinner { return &spinner{start: time.Now(), wakec: make(chan struct{}, 1)} }

func (s *spinner) allow()  { s.allowed.Store(true) }
func (s *spinner) forbid() { s.allowed.Store(false) }

// Dialogue tells that a packet came or went that may be a question or an answer, so another one is
// expected soon.
func (p *Process) Dialogue() {
	if p != nil {
		p.spinner.dialogue()
	}
}

// Bulk tells that other packets came or went. Nobody waits for a single one of them, so the process
// does not spin for the next.
func (p *Process) Bulk() {
	if p != nil {
		p.spinner.bulk()
	}
}

// spin runs the spinner until Close.
func (p *Process) spin() {
	k, err := newNetpoller()
	if err != nil {
		p.log.Debug("spinning is not possible", "err", err)
		return
	}
	defer k.close()
	p.spinner.run(k, p.stopc)
}

func (s *spinner) dialogue() {
	if !s.allowed.Load() {
		return
	}
	now := s.now()
	before := s.last.Swap(now)
	s.until.Store(now + int64(spinFor))
	if now-before < int64(spinFor) && s.asleep.Load() && s.asleep.CompareAndSwap(true, false) {
		s.wakec <- struct{}{} // does not block: the channel was empty when asleep was set
	}
}

func (s *spinner) bulk() {
	if s.allowed.Load() {
		s.last.Store(s.now())
	}
}

// spentTime is about how much processor time spinning has used.
func (s *spinner) spentTime() time.Duration { return time.Duration(s.spent.Load()) }

func (s *spinner) now() int64 { return int64(time.Since(s.start)) }

// poller is what spinning needs of the system. *netpoller implements it.
type poller interface {
	yield() // offers the processor to other processes
	poll()  // polls the network and returns when all goroutines that became ready have run
	close()
}

// run spins whenever there is reason to, until stopc is closed.
func (s *spinner) run(k poller, stopc <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s.asleep.Store(true)
		select {
		case <-s.wakec:
		case <-stopc:
			return
		}
		if s.spin(k, stopc) != crowded {
			continue
		}
		timer.Reset(pauseAfterCrowded)
		select {
		case <-timer.C:
		case <-stopc:
			return
		}
	}
}

// spinEnd is why spinning has ended.
type spinEnd uint8

const (
	noReason spinEnd = iota // no packet came, spinning is forbidden, or run has to end
	shared                  // another process works on this processor
	crowded                 // another process wants the processor for long
)

// spin polls until there is no reason to any more.
func (s *spinner) spin(k poller, stopc <-chan struct{}) spinEnd {
	for began := s.now(); ; {
		k.yield()
		now := s.now()
		switch {
		case now-began > int64(yieldCrowded):
			return crowded
		case now-began > int64(yieldShared):
			return shared
		case now > s.until.Load(), !s.allowed.Load(), isClosed(stopc):
			return noReason
		}
		k.poll()
		ended := s.now()
		s.spent.Add(min(ended-began, int64(maxPollCost)))
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
