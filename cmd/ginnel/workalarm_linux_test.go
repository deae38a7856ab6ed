package main

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An alarm fires when the process works, and wakes all that wait.
func TestWorkAlarm(t *testing.T) {
	stopc := make(chan struct{})
	var fired atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		a := newWorkAlarm()
		wg.Go(func() {
			a.await(stopc)
			fired.Add(1)
		})
	}
	before := processorTime()
	for deadline := time.Now().Add(10 * time.Second); fired.Load() < 2 && time.Now().Before(deadline); {
	}
	if got := fired.Load(); got != 2 {
		t.Errorf("%d of 2 alarms fired in 10 s of work", got)
	}
	if got := processorTime() - before; got < alarmAfter/2 {
		t.Errorf("fired after %v of processor time", got)
	}
	close(stopc)
	wg.Wait()
}

// An alarm that is not to fire any more lets its caller go.
func TestWorkAlarmStops(t *testing.T) {
	stopc := make(chan struct{})
	close(stopc)
	newWorkAlarm().await(stopc)
}
