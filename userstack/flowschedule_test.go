package userstack

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"
)

// The timer fires at ticks, so that flows that are due at about the same time are served together.
func TestFlowsAreServedAtTicks(t *testing.T) {
	var fs flows
	fs.init(faketime.NewManualClock(), &delayedAcks{}, func() {})
	for _, step := range []struct{ due, want time.Duration }{
		{2*tick + 1, 3 * tick},
		{2*tick + 9, 3 * tick}, // the same tick
		{2 * tick, 2 * tick},
		{5 * tick, 2 * tick},
	} {
		fs.waiting = deadlineHeap{{schedule: schedule{due: step.due}}}
		if fs.setTimer(0); fs.timerAt != step.want {
			t.Errorf("a flow is due at %v: the timer fires at %v, want %v", step.due, fs.timerAt, step.want)
		}
	}
}
