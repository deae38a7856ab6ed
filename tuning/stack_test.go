package tuning

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

// BenchmarkStack is a short-lived goroutine that goes deep, with its stack grown at once and with
// the stack growing on demand.
func BenchmarkStack(b *testing.B) {
	for name, first := range map[string]func(){"grown": GrowStack, "growing": func() {}} {
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

// GrowStack allocates nothing.
func TestGrowStack(t *testing.T) {
	if n := testing.AllocsPerRun(100, GrowStack); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
