package main

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"syscall"
	"time"

	"ginnel/internal/busypoll"
)

// paceProcessors paces until the node has ended. A node with a small budget has one P for good:
// each P has pools of its own, and with several of them packets are received before others have
// worked on the ones before.
func (r *runningNode) paceProcessors(budget int64) {
	runtime.GOMAXPROCS(1)
	defer runtime.SetDefaultGOMAXPROCS()
	if budget < frugalMemory || runtime.NumCPU() == 1 {
		<-r.endc
		return
	}
	ps := processors{poll: r.poll, mayPoll: !groupTimeLimited(os.DirFS("/"))} // polling uses up a limited time
	m := newEffortMeter(r.poll.Spent)
	defer m.close()
	new(pacer).run(m, newWorkAlarm(), ps.use, r.endc)
}

// meter measures the effort since the last read. *effortMeter implements it.
type meter interface {
	read() (elapsed time.Duration, e effort)
}

// run looks at the effort and has use act on each decision, until stopc is closed. While p rests,
// no timer runs.
func (p *pacer) run(m meter, work alarm, use func(*pacer), stopc <-chan struct{}) {
	timer := time.NewTimer(busyLook)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-stopc:
			return
		}
		elapsed, e := m.read()
		p.look(elapsed, e)
		use(p)
		pause := pauseAt(e.load)
		if p.rests(elapsed, e) {
			work.await(forever, stopc)
			p.look(m.read()) // so that the next look sees nothing of the rest
			pause = busyLook
		}
		timer.Reset(pause)
	}
}

// processors are the Ps of this process, and its poller.
type processors struct {
	poll    *busypoll.Poller
	mayPoll bool
	wide    bool // all Ps are in use
}

// use does what p has decided.
func (ps *processors) use(p *pacer) {
	if p.wide != ps.wide {
		ps.wide = p.wide
		ps.setLimit()
	}
	ps.poll.Allow(ps.mayPoll && p.polls())
}

func (ps *processors) setLimit() {
	if ps.wide {
		runtime.SetDefaultGOMAXPROCS() // which follows the control group from then on
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

// waitSampling is how many times goroutines become ready for each whose waiting Go's runtime
// measures.
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

// readIdle returns for how many seconds the machine's processors have had nothing to do, summed up;
// 0: it does not say. "The second value is the sum of how much time each core has spent idle, in
// seconds" (proc_uptime(5)).
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

// waited is about how many seconds goroutines have waited since the last call, those that are
// measured.
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
