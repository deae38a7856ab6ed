package main

import (
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// This file tells when the process works, without a ticker: the pacer and the idler wait for it while the node is idle.

const (
	// alarmAfter is the user time after which an alarm fires. An idle node needs minutes for that, a busy one 10 ms. The
	// kernel counts user time in ticks of 1 to 10 ms.
	alarmAfter = 10 * time.Millisecond

	// withoutAlarm is how long await waits where a sandbox forbids setitimer(2).
	withoutAlarm = time.Second
)

// alarm blocks its caller until the process works. *workAlarm implements it.
type alarm interface {
	await(stopc <-chan struct{})
}

// workAlarm is an alarm made of the kernel's interval timer ITIMER_VIRTUAL, which counts down only while the process runs,
// and then sends SIGVTALRM. A process has one such timer, which all its alarms share: whoever waits arms it, and it wakes
// all that wait.
type workAlarm struct{ firedc chan os.Signal }

func newWorkAlarm() *workAlarm {
	a := &workAlarm{make(chan os.Signal, 1)}
	// The process never calls signal.Stop for it, because the default action of a SIGVTALRM that comes late is to end the
	// process.
	signal.Notify(a.firedc, unix.SIGVTALRM)
	return a
}

// await returns once the process has used about alarmAfter of user time, or when stopc is closed.
func (a *workAlarm) await(stopc <-chan struct{}) {
	select {
	case <-a.firedc: // armed by another, while nobody waited here
	default:
	}
	var refused <-chan time.Time
	if _, err := unix.Setitimer(unix.ITIMER_VIRTUAL, unix.Itimerval{Value: unix.NsecToTimeval(int64(alarmAfter))}); err != nil {
		timer := time.NewTimer(withoutAlarm)
		defer timer.Stop()
		refused = timer.C
	}
	select {
	case <-a.firedc:
	case <-refused:
	case <-stopc:
	}
}
