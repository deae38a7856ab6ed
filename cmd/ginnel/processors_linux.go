package main

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"syscall"
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
	mayPoll := !groupTimeLimited(os.DirFS("/")) // what is polled away would count
	var p pacer
	m := newEffortMeter(r.poll.Spent)
	defer m.close()
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
		r.poll.Allow(mayPoll && p.polls())
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
	polled  func() time.Duration                   // processor time polled away so far
	last    struct{ worked, polled time.Duration } // at the last read; worked is the rest of the processor time
	samples []metrics.Sample
	counts  []uint64 // of the last read
	uptime  *os.File // nil: what is idle is not known
	unused  float64  // seconds for which processors had nothing to do
	text    [64]byte
}

func newEffortMeter(polled func() time.Duration) *effortMeter {
	m := &effortMeter{polled: polled, samples: []metrics.Sample{{Name: "/sched/latencies:seconds"}}}
	if f, err := os.Open("/proc/uptime"); err == nil {
		m.uptime = f
	}
	m.read()
	return m
}

func (m *effortMeter) close() {
	if m.uptime != nil {
		m.uptime.Close()
	}
}

// waitSampling is how many times goroutines become ready for each whose waiting Go's runtime measures.
const waitSampling = 8

func (m *effortMeter) read() (elapsed time.Duration, e effort) {
	now, polled, unused := time.Now(), m.polled(), m.readIdle()
	worked := processorTime() - polled
	metrics.Read(m.samples)
	waited := m.waited(m.samples[0].Value.Float64Histogram())
	elapsed = max(now.Sub(m.at), 1)
	e.load = max(float64(worked-m.last.worked)/float64(elapsed), 0)
	e.queue = waitSampling * waited / elapsed.Seconds() // Little's law
	e.idle = float64(runtime.NumCPU())
	if unused > 0 {
		// What is polled away is anybody's who wants it.
		e.idle = min(e.idle, max((unused-m.unused+(polled-m.last.polled).Seconds())/elapsed.Seconds(), 0))
	}
	m.at, m.unused, m.last.worked, m.last.polled = now, unused, worked, polled
	return elapsed, e
}

// readIdle returns for how many seconds the machine's processors have had nothing to do, summed up; 0: it does not say. "The
// second value is the sum of how much time each core has spent idle, in seconds" (proc_uptime(5)).
func (m *effortMeter) readIdle() float64 {
	if m.uptime == nil {
		return 0
	}
	n, err := syscall.Pread(int(m.uptime.Fd()), m.text[:], 0)
	if err != nil {
		return 0
	}
	return idleOf(m.text[:n])
}

// idleOf reads what /proc/uptime says, as in "350735.47 234388.90\n"; 0 if it is something else.
func idleOf(uptime []byte) float64 {
	_, text, _ := bytes.Cut(bytes.TrimSpace(uptime), []byte(" "))
	seconds, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return 0
	}
	return seconds
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
