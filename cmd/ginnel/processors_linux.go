package main

import (
	"runtime"
	"runtime/metrics"
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
	m := newEffortMeter()
	timer := time.NewTimer(busyLook)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-r.endc:
			return
		}
		elapsed, e := m.read()
		if p.look(elapsed, e) {
			p.apply()
		}
		timer.Reset(pauseAt(e.load))
	}
}

func (p *pacer) apply() {
	if p.wide {
		runtime.SetDefaultGOMAXPROCS() // follows the control group from then on
	} else {
		runtime.GOMAXPROCS(1)
	}
}

// effortMeter measures the effort from one read to the next.
type effortMeter struct {
	at      time.Time
	used    time.Duration
	samples []metrics.Sample
	counts  []uint64 // of the last read
}

func newEffortMeter() *effortMeter {
	m := &effortMeter{samples: []metrics.Sample{{Name: "/sched/latencies:seconds"}}}
	m.read()
	return m
}

// waitSampling is how many times goroutines become ready for each whose waiting Go's runtime measures.
const waitSampling = 8

func (m *effortMeter) read() (elapsed time.Duration, e effort) {
	now, used := time.Now(), processorTime()
	metrics.Read(m.samples)
	waited := m.waited(m.samples[0].Value.Float64Histogram())
	elapsed = max(now.Sub(m.at), 1)
	e.load = float64(used-m.used) / float64(elapsed)
	e.queue = waitSampling * waited / elapsed.Seconds() // Little's law
	m.at, m.used = now, used
	return elapsed, e
}

// waited is about how many seconds goroutines have waited since the last call, those that are measured.
func (m *effortMeter) waited(h *metrics.Float64Histogram) (sum float64) {
	first := len(m.counts) == 0
	if first {
		m.counts = make([]uint64, len(h.Counts))
	}
	for i, n := range h.Counts {
		if n != m.counts[i] && !first {
			sum += float64(n-m.counts[i]) * max(h.Buckets[i], 0) // its least: the last one has no end
		}
		m.counts[i] = n
	}
	return sum
}
