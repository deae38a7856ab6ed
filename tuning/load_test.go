package tuning

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"ginnel/internal/sys"
)

// needMeasurable skips a test where the system does not tell what the process uses.
func needMeasurable(t testing.TB) {
	t.Helper()
	if _, err := sys.ProcessorTime(); err != nil {
		t.Skip(err)
	}
}

const turnsFor = 100 * time.Millisecond

// takeTurns has 8 goroutines take turns on the P, and returns the load of that time.
func takeTurns(m *loadMeter) (elapsed time.Duration, l load) {
	m.read()
	var wg sync.WaitGroup
	end := time.Now().Add(turnsFor)
	for range 8 {
		wg.Go(func() {
			for time.Now().Before(end) {
				runtime.Gosched() // waits for the seven others
			}
		})
	}
	wg.Wait()
	return m.read()
}

// The meter shows the work of the process.
func TestLoadMeter(t *testing.T) {
	needMeasurable(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	m := newLoadMeter(func() time.Duration { return 0 })
	defer m.close()
	elapsed, l := takeTurns(m)
	for range 5 { // on a busy machine the process may lose its processor for long
		if l.queued >= 2 && l.queued <= 14 {
			break
		}
		elapsed, l = takeTurns(m)
	}
	if elapsed < turnsFor || l.used <= 0 || l.used > 1.5 {
		t.Errorf("%v of work are %v processors in %v", turnsFor, l.used, elapsed)
	}
	if l.queued < 2 || l.queued > 14 {
		t.Errorf("8 goroutines that take turns are a queue of %v", l.queued)
	}
	if l.idle < 0 || l.idle > float64(runtime.NumCPU()) {
		t.Errorf("%v processors of %d are idle", l.idle, runtime.NumCPU())
	}
	if n := testing.AllocsPerRun(10, func() { m.read() }); n > 0 {
		t.Errorf("a measurement allocates %v times", n)
	}
}

// Processor time that spinning has used is not load, and counts as idle.
func TestLoadMeterOfSpinning(t *testing.T) {
	needMeasurable(t)
	spent := 10 * time.Second
	m := newLoadMeter(func() time.Duration { return spent })
	defer m.close()
	for _, add := range []time.Duration{0, time.Hour} {
		spent += add
		_, l := m.read()
		if add > 0 && (l.used != 0 || l.idle != float64(runtime.NumCPU())) {
			t.Errorf("%v processors used, %v of %d idle after %v of spinning", l.used, l.idle, runtime.NumCPU(), add)
		}
	}
}

func TestParseIdle(t *testing.T) {
	for text, want := range map[string]float64{
		"350735.47 234388.90\n":     234388.90,
		"9.00 98765432109.87\n":     98765432109.87,
		"1.00 0.00\n":               0,
		"1.00\n":                    0,
		"":                          0,
		"350735.47 two weeks ago\n": 0,
	} {
		if got := parseIdle([]byte(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
