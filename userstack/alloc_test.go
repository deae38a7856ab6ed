package userstack

import (
	"io"
	"sync"
	"testing"
)

// Nothing is allocated for a packet on its way through two stacks, in either direction.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	p := newBlindPair(t)
	a, z := p.connect(t, addrB4)
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(z, z) })
	for _, size := range []int{64, 61560} {
		buf := make([]byte, size)
		exchange := func() {
			if _, err := a.Write(buf); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(a, buf); err != nil {
				t.Fatal(err)
			}
		}
		for range 200 { // pools and windows fill
			exchange()
		}
		// A timer or a pool that was emptied may cost one now and then; one for each exchange would show.
		if n := testing.AllocsPerRun(500, exchange); n >= 1 {
			t.Errorf("%v allocations for an exchange of %d bytes, want 0", n, size)
		}
	}
	a.Close()
	wg.Wait()
}
