package tuning

import (
	"errors"
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// start starts the tuning for the time of a test.
func start(t *testing.T, cfg Config) *Process {
	t.Helper()
	p, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// useProcs sets GOMAXPROCS for the time of a test, and undoes what the environment of the test
// says.
func useProcs(t *testing.T, n int) {
	t.Setenv("GOMAXPROCS", "")
	t.Setenv("GOMEMLIMIT", "")
	procs, limit := runtime.GOMAXPROCS(n), debug.SetMemoryLimit(math.MaxInt64)
	t.Cleanup(func() {
		runtime.GOMAXPROCS(procs)
		debug.SetMemoryLimit(limit)
	})
}

// exchange has packets of a dialogue pass for some time.
func exchange(p *Process, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(spinFor / 4) {
		p.Dialogue()
	}
}

// Off leaves GOMAXPROCS alone, does not spin, yield or trim, and starts no goroutine. The memory
// budget is kept all the same.
func TestOff(t *testing.T) {
	useProcs(t, 3)
	before := runtime.NumGoroutine()
	p := start(t, Config{Mode: Off, Memory: MinMemory})
	exchange(p, 5*busyInterval)
	if got := runtime.GOMAXPROCS(0); got != 3 {
		t.Errorf("GOMAXPROCS is %d, want 3 as before", got)
	}
	if got := p.spinner.spentTime(); got != 0 || p.spinner.allowed.Load() {
		t.Errorf("has spun for %v", got)
	}
	if p.procs.one.Load() {
		t.Error("yields")
	}
	if got := runtime.NumGoroutine(); got > before {
		t.Errorf("%d goroutines, want %d", got, before)
	}
	if got, want := debug.SetMemoryLimit(-1), int64(MinMemory-programMemory); got != want {
		t.Errorf("the memory limit is %d, want %d", got, want)
	}
	p.Close()
	p.WithAllPs(func() error { return nil })
	if got := runtime.GOMAXPROCS(0); got != 3 {
		t.Errorf("GOMAXPROCS is %d after Close, want 3", got)
	}
}

// On begins with one P, and Close restores the settings of the runtime.
func TestOn(t *testing.T) {
	needMeasurable(t)
	useProcs(t, 3)
	p := start(t, Config{})
	if got := runtime.GOMAXPROCS(0); got != 1 || !p.procs.one.Load() {
		t.Errorf("GOMAXPROCS is %d, receivers yield: %v; want 1 and true", got, p.procs.one.Load())
	}
	if got := p.Processors(); got != 3 {
		t.Errorf("%d processors, want the 3 before Start", got)
	}
	if got, want := debug.SetMemoryLimit(-1), p.Memory()-programMemory; got != want {
		t.Errorf("the memory limit is %d, want %d", got, want)
	}
	p.Close()
	p.Close()
	byDefault := defaultProcs()
	p = start(t, Config{})
	p.Close()
	if got := runtime.GOMAXPROCS(0); got != byDefault {
		t.Errorf("GOMAXPROCS is %d after Close, want %d", got, byDefault)
	}
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("the memory limit is %d after Close", got)
	}
}

// defaultProcs is the GOMAXPROCS that the runtime chooses.
func defaultProcs() int {
	runtime.SetDefaultGOMAXPROCS()
	return runtime.GOMAXPROCS(0)
}

// WithAllPs has the default GOMAXPROCS during each call, and returns to the choice after the last.
func TestWithAllPs(t *testing.T) {
	useProcs(t, 3)
	byDefault, failure := defaultProcs(), errors.New("failure")
	p := start(t, Config{Memory: MinMemory})
	err := p.WithAllPs(func() error {
		p.WithAllPs(func() error { return nil })
		p.procs.useOne() // a choice in the meantime
		if got := runtime.GOMAXPROCS(0); got != byDefault {
			t.Errorf("GOMAXPROCS is %d, want %d", got, byDefault)
		}
		return failure
	})
	if got := runtime.GOMAXPROCS(0); err != failure || got != 1 {
		t.Errorf("%v, GOMAXPROCS is %d; want %v and 1", err, got, failure)
	}
}

// A small budget has one P on every system.
func TestSmallBudget(t *testing.T) {
	useProcs(t, 3)
	p := start(t, Config{Memory: onePMemory - 1})
	if got := runtime.GOMAXPROCS(0); got != 1 || !p.procs.one.Load() {
		t.Errorf("GOMAXPROCS is %d, receivers yield: %v; want 1 and true", got, p.procs.one.Load())
	}
}

// GOMAXPROCS and GOMEMLIMIT in the environment win.
func TestEnvironmentWins(t *testing.T) {
	useProcs(t, 3)
	t.Setenv("GOMAXPROCS", "3")
	t.Setenv("GOMEMLIMIT", "1GiB")
	p := start(t, Config{Memory: MinMemory})
	if got := runtime.GOMAXPROCS(0); got != 3 || p.procs.one.Load() {
		t.Errorf("GOMAXPROCS is %d, receivers yield: %v; want 3 and false", got, p.procs.one.Load())
	}
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("the memory limit is %d, want that of before", got)
	}
}

// The process has one owner of its settings at a time.
func TestStartTwice(t *testing.T) {
	useProcs(t, 3)
	p := start(t, Config{Mode: Off})
	if _, err := Start(Config{}); !errors.Is(err, ErrStarted) {
		t.Errorf("second start: %v, want %v", err, ErrStarted)
	}
	p.Close()
	start(t, Config{Mode: Off})
}

func TestStartRefuses(t *testing.T) {
	for _, cfg := range []Config{{Memory: -1}, {Memory: MinMemory - 1}, {Mode: Off + 1}} {
		if p, err := Start(cfg); err == nil {
			p.Close()
			t.Errorf("%+v: no error", cfg)
		}
	}
}

// A nil *Process is one that is not tuned.
func TestNilProcess(t *testing.T) {
	var p *Process
	p.Dialogue()
	p.Bulk()
	p.Yield()
	p.Close()
	if called := false; p.WithAllPs(func() error { called = true; return nil }) != nil || !called {
		t.Error("WithAllPs has not called the function")
	}
	if p.Memory() != 0 || p.Processors() != 0 {
		t.Errorf("budget %d, %d processors", p.Memory(), p.Processors())
	}
}

func TestParseMode(t *testing.T) {
	for _, want := range []Mode{On, Off} {
		if got, err := ParseMode(want.String()); got != want || err != nil {
			t.Errorf("%v: %v, %v", want, got, err)
		}
	}
	for _, bad := range []string{"", "ON", "true", "0"} {
		if _, err := ParseMode(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
