package main

import (
	"math"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// This file tells when the process works, without a ticker: the pacer and the idler wait for it
// while the node is idle.

const (
	// alarmAfter is the user time after which an alarm fires. Kernels that count user time in ticks of
	// 1 to 10 ms, as most do, let it fire at the first tick that finds the process in user mode:
	// within 10 ms when load begins, and every few minutes in an idle node.
	alarmAfter = time.Millisecond

	// withoutAlarm is how long await waits at the most where a sandbox forbids setitimer(2).
	withoutAlarm = time.Second
)

// alarm blocks its caller until the process works. *workAlarm implements it.
type alarm interface {
	// await waits for limit at the most, or without end if limit is forever, and no longer than until
	// stopc is closed. It reports whether the process has worked.
	await(limit time.Duration, stopc <-chan struct{}) (worked bool)
}

const forever time.Duration = math.MaxInt64

// workAlarm is an alarm made of the kernel's interval timer ITIMER_VIRTUAL, which counts down only
// while the process runs, and then sends SIGVTALRM. A process has one such timer, which all its
// alarms share: whoever waits arms it, and it wakes all that wait.
type workAlarm struct{ firedc chan os.Signal }

func newWorkAlarm() *workAlarm {
	a := &workAlarm{make(chan os.Signal, 1)}
	// The process never calls signal.Stop for it, because the default action of a SIGVTALRM that comes
	// late is to end the process.
	signal.Notify(a.firedc, unix.SIGVTALRM)
	return a
}

func (a *workAlarm) await(limit time.Duration, stopc <-chan struct{}) (worked bool) {
	select {
	case <-a.firedc: // armed by another, while nobody waited here
	default:
	}
	if _, err := unix.Setitimer(unix.ITIMER_VIRTUAL, unix.Itimerval{Value: unix.NsecToTimeval(int64(alarmAfter))}); err != nil {
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
