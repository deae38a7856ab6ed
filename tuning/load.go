package tuning

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"time"

	"ginnel/internal/sys"
)

// loadMeter measures the load from one read to the next.
type loadMeter struct {
	at    time.Time
	spent func() time.Duration // processor time that spinning has used so far
	last  struct {             // values of the last read
		worked, spun time.Duration // worked is processor time without spinning
		idle         float64       // seconds that processors of the machine have been idle
		counts       []uint64      // of the histogram of waiting times
	}
	samples []metrics.Sample
	uptime  *os.File // /proc/uptime; nil if it cannot be read
	text    [64]byte
}

func newLoadMeter(spent func() time.Duration) *loadMeter {
	m := &loadMeter{spent: spent, samples: []metrics.Sample{{Name: "/sched/latencies:seconds"}}}
	if f, err := os.Open("/proc/uptime"); err == nil {
		m.uptime = f
	}
	m.read()
	return m
}

func (m *loadMeter) close() {
	if m.uptime != nil {
		m.uptime.Close()
	}
}

// waitSampling is the sampling rate of the histogram: Go's runtime measures the waiting time of one
// in so many transitions of goroutines to ready (gTrackingPeriod in runtime2.go).
const waitSampling = 8

func (m *loadMeter) read() (elapsed time.Duration, l load) {
	now, spun, idle := time.Now(), m.spent(), m.readIdle()
	worked := processorTime() - spun
	metrics.Read(m.samples)
	waited := m.waited(m.samples[0].Value.Float64Histogram())
	elapsed = max(now.Sub(m.at), 1)
	l.used = max(float64(worked-m.last.worked)/float64(elapsed), 0)
	l.queued = waitSampling * waited / elapsed.Seconds() // Little's law
	l.idle = float64(runtime.NumCPU())
	if idle > 0 {
		// Time spent spinning counts as idle, because spinning gives way to whoever wants the processor.
		l.idle = min(l.idle, max((idle-m.last.idle+(spun-m.last.spun).Seconds())/elapsed.Seconds(), 0))
	}
	m.at, m.last.idle, m.last.worked, m.last.spun = now, idle, worked, spun
	return elapsed, l
}

// readIdle returns how many seconds the processors of the machine have been idle, summed up; 0 if
// that is not known. "The second value is the sum of how much time each core has spent idle, in
// seconds" (proc_uptime(5)).
func (m *loadMeter) readIdle() float64 {
	if m.uptime == nil {
		return 0
	}
	n, _ := m.uptime.ReadAt(m.text[:], 0) // the error is io.EOF: the buffer is longer than the file
	return parseIdle(m.text[:n])
}

// parseIdle reads the text of /proc/uptime, such as "350735.47 234388.90\n". It returns 0 for any
// other text.
func parseIdle(uptime []byte) float64 {
	_, text, _ := bytes.Cut(bytes.TrimSpace(uptime), []byte(" "))
	seconds, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return 0
	}
	return seconds
}

// waited returns about how many seconds goroutines have waited for a P since the last call, summed
// over the transitions that the runtime has measured.
func (m *loadMeter) waited(h *metrics.Float64Histogram) (sum float64) {
	first := len(m.last.counts) == 0
	if first {
		m.last.counts = make([]uint64, len(h.Counts))
	}
	for i, n := range h.Counts {
		if n != m.last.counts[i] && !first {
			// The lower bound of the bucket counts, because the last bucket has no upper bound.
			sum += float64(n-m.last.counts[i]) * max(h.Buckets[i], 0)
		}
		m.last.counts[i] = n
	}
	return sum
}

// processorTime is what the process has used so far; 0 if the system does not say.
func processorTime() time.Duration {
	d, err := sys.ProcessorTime()
	if err != nil {
		return 0
	}
	return d
}
