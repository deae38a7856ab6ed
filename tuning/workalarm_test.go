package tuning

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An alarm fires when the process works, and wakes all that wait.
func TestWorkAlarm(t *testing.T) {
	needMeasurable(t)
	stopc := make(chan struct{})
	var fired atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		a := newWorkAlarm()
		wg.Go(func() {
			if a.await(forever, stopc) {
				fired.Add(1)
			}
		})
	}
	for deadline := time.Now().Add(10 * time.Second); fired.Load() < 2 && time.Now().Before(deadline); {
	}
	if got := fired.Load(); got != 2 {
		t.Errorf("%d of 2 alarms fired in 10 s of work", got)
	}
	close(stopc)
	wg.Wait()
}

// While the process does nothing, an alarm does not fire.
func TestWorkAlarmIdle(t *testing.T) {
	needMeasurable(t)
	for range 20 { // the runtime may work a little
		if !newWorkAlarm().await(50*time.Millisecond, nil) {
			return
		}
	}
	t.Error("20 alarms fired within 50 ms without work")
}

// A closed stopc ends await.
func TestWorkAlarmStops(t *testing.T) {
	needMeasurable(t)
	stopc := make(chan struct{})
	close(stopc)
	newWorkAlarm().await(forever, stopc)
}
