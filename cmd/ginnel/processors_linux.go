package main

import (
	"runtime"
	"time"
)

// paceProcessors goes on until the node has ended. Within a small budget one processor has to do: each has pools of its own,
// and what is received is received before others have worked on it.
func (r *runningNode) paceProcessors(budget int64) {
	runtime.GOMAXPROCS(1)
	defer runtime.SetDefaultGOMAXPROCS()
	if budget < frugalMemory || runtime.NumCPU() == 1 {
		<-r.endc
		return
	}
	var p pacer
	timer := time.NewTimer(busyLook)
	defer timer.Stop()
	for at, used := time.Now(), processorTime(); ; {
		select {
		case <-timer.C:
		case <-r.endc:
			return
		}
		now, usedNow := time.Now(), processorTime()
		elapsed := now.Sub(at)
		load := float64(usedNow-used) / float64(elapsed)
		at, used = now, usedNow
		if p.look(elapsed, load) {
			p.apply()
		}
		timer.Reset(pauseAt(load))
	}
}

func (p *pacer) apply() {
	if p.wide {
		runtime.SetDefaultGOMAXPROCS() // follows the control group from then on
	} else {
		runtime.GOMAXPROCS(1)
	}
}
