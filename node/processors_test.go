package node

import (
	"runtime"
	"testing"
)

const mib = 1 << 20

// A power of two, at most half of the processors and at most eight.
func TestLanesByProcessors(t *testing.T) {
	for processors, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 6: 2, 7: 2, 8: 4, 12: 4, 15: 4, 16: 8, 32: 8, 256: 8} {
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
