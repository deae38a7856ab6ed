package deepstack

import (
	"sync"
	"testing"
)

// descend needs some KiB of stack, in many frames.
//
//go:noinline
func descend(depth int, p *int) int {
	if depth == 0 {
		return *p
	}
	x := depth
	return descend(depth-1, &x) + *p
}

// A short life that goes deep costs less when the stack has grown at once.
func BenchmarkDescend(b *testing.B) {
	for name, first := range map[string]func(){"grown": Grow, "growing": func() {}} {
		b.Run(name, func(b *testing.B) {
			var wg sync.WaitGroup
			for b.Loop() {
				wg.Go(func() {
					first()
					descend(60, new(int))
				})
				wg.Wait()
			}
		})
	}
}

// Grow leaves no trace.
func TestGrow(t *testing.T) {
	if n := testing.AllocsPerRun(100, Grow); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
