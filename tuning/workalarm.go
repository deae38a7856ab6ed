package tuning

import (
	"math"
	"os"
	"os/signal"
	"time"

	"ginnel/internal/sys"
)

// This file waits until the process works, without a timer of Go's.
//
// Why: each timer that fires wakes two threads about twice, the one that polls the network and
// sysmon. Tickers of this package woke an idle node six times a second.
//
// Gain (docs/performance.md): with the other tickers of an idle node, 47 → 1.4 voluntary context
// switches a second.
//
// Benchmark: make lab checks the bar of 8 a second; the step quiet of make bench-peers measures it.

const (
	// alarmAfter is the user time after which an alarm fires. Most kernels count user time in ticks of
	// 1 to 10 ms, and the alarm fires at the first tick that finds the process in user mode: within
	// 10 ms when load begins, and every few minutes in an idle node.
	alarmAfter = time.Millisecond

	// withoutAlarm is how long await waits at most where a sandbox forbids setitimer(2).
	withoutAlarm = time.Second
)

// alarm blocks its caller until the process works. *workAlarm implements it.
type alarm interface {
	// await waits until the process works, limit is over or stopc is closed. It reports whether the
	// process has worked. The limit forever never ends.
	await(limit time.Duration, stopc <-chan struct{}) (worked bool)
}

const forever time.Duration = math.MaxInt64

// workAlarm is an alarm made of the interval timer ITIMER_VIRTUAL, which counts down while the
// process runs in user mode, and then sends SIGVTALRM. A process has one such timer, so all its
// alarms share it: each await starts it, and the signal wakes all that wait.
type workAlarm struct{ firedc chan os.Signal }

func newWorkAlarm() *workAlarm {
	a := &workAlarm{make(chan os.Signal, 1)}
	// There is no signal.Stop, because the timer may still run. In a program in C that Go is a library
	// of, a late signal would then meet the default action, which ends the process.
	signal.Notify(a.firedc, sys.WorkSignal())
	return a
}

func (a *workAlarm) await(limit time.Duration, stopc <-chan struct{}) (worked bool) {
	select {
	case <-a.firedc: // another alarm had started the timer, while nobody waited here
	default:
	}
	if err := sys.StartWorkTimer(alarmAfter); err != nil {
		limit = min(limit, withoutAlarm)
	}
	var limitc <-chan time.Time
	if limit < forever {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		limitc = timer.C
	}
	select {
	case <-a.firedc:
		return true
	case <-limitc:
	case <-stopc:
	}
	return false
}
