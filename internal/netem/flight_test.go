package netem

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Frames are taken in the order of arrival, and at the same time in the order in which they were
// added. The test compares with a sorted list.
func TestFlightOrder(t *testing.T) {
	type sent struct {
		arrival time.Duration
		name    byte
	}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		var f flight
		var list []sent
		var now time.Duration
		for i := range 2000 {
			if r.IntN(3) > 0 {
				now += time.Duration(r.IntN(2)) * ms
				x := sent{now, byte(i)}
				if r.IntN(10) == 0 {
					x.arrival += 5 * ms // late
				}
				f.add(x.arrival, []byte{x.name})
				list = append(list, x)
				slices.SortStableFunc(list, func(a, b sent) int { return int(a.arrival - b.arrival) })
				continue
			}
			if len(list) == 0 {
				if f.next() != never {
					t.Fatalf("seed %d: an empty flight has a next frame at %v", seed, f.next())
				}
				continue
			}
			if got := f.next(); got != list[0].arrival {
				t.Fatalf("seed %d: the next arrives at %v, want %v", seed, got, list[0].arrival)
			}
			if got := f.take(); got.arrival != list[0].arrival || got.b[0] != list[0].name {
				t.Fatalf("seed %d: got %v at %v, want %v", seed, got.b, got.arrival, list[0])
			}
			list = list[1:]
		}
	}
}

// The memory of frames that were taken is reused.
func TestFlightForgets(t *testing.T) {
	var f flight
	for i := range 100_000 {
		f.add(time.Duration(i), make([]byte, 1))
		if i >= 10 {
			f.take()
		}
	}
	if got := cap(f.ordered); got > 100 {
		t.Errorf("there is room for %d frames, 10 are on their way", got)
	}
}
