package node

import (
	"runtime"
	"testing"

	"ginnel/tuning"
)

const mib = 1 << 20

// A power of two, at most half of the processors and at most eight.
func TestLanesByProcessors(t *testing.T) {
	for processors, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 6: 2, 7: 2, 8: 4, 12: 4, 15: 4, 16: 8, 32: 8,
		256: 8} {
		for _, memory := range []int64{0, 640 * mib} {
			if got := (&Config{Processors: processors, Memory: memory}).lanes(); got != want {
				t.Errorf("%d processors, budget of %d bytes: %d lanes, want %d", processors, memory, got, want)
			}
		}
	}
}

// Not more than the budget is good for.
func TestLanesByMemory(t *testing.T) {
	for memory, want := range map[int64]int{24: 1, 63: 1, 64: 2, 127: 2, 128: 4, 256: 8, 640: 8} {
		if got := (&Config{Processors: 16, Memory: memory * mib}).lanes(); got != want {
			t.Errorf("%d MiB: %d lanes, want %d", memory, got, want)
		}
	}
}

// GOMAXPROCS decides, unless Processors does.
func TestLanesByDefault(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	if got := new(Config).lanes(); got != 4 {
		t.Errorf("with GOMAXPROCS=8: %d lanes, want 4", got)
	}
}

// A tuned process has lowered GOMAXPROCS by the time of New, so the number from before counts.
func TestLanesWithTuning(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	tuned, err := tuning.Start(tuning.Config{Memory: 640 * mib})
	if err != nil {
		t.Fatal(err)
	}
	defer tuned.Close()
	cfg := Config{Tuning: tuned}
	cfg.useTuning()
	if got := cfg.lanes(); got != 4 || cfg.Memory != 640*mib {
		t.Errorf("%d lanes and a budget of %d bytes, want 4 and %d", got, cfg.Memory, 640*mib)
	}
	cfg = Config{Tuning: tuned, Memory: 32 * mib, Processors: 16}
	cfg.useTuning()
	if got := cfg.lanes(); got != 1 || cfg.Memory != 32*mib || cfg.Processors != 16 {
		t.Errorf("%d lanes, a budget of %d bytes and %d processors, which the program has set", got, cfg.Memory,
			cfg.Processors)
	}
}
