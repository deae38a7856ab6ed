package netem

import (
	"container/heap"
	"math"
	"time"
)

// frame is a frame in flight.
type frame struct {
	arrival time.Duration
	number  uint64 // orders frames that arrive at the same time
	b       []byte
}

func (f *frame) before(g *frame) bool {
	return f.arrival < g.arrival || f.arrival == g.arrival && f.number < g.number
}

// flight holds the frames in flight in one direction, sorted by arrival. Most frames are added in
// that order, to a queue. Those that arrive before a frame that was added earlier are added to a
// heap.
type flight struct {
	ordered []frame
	head    int    // index of the first frame of ordered that has not arrived
	other   frames // the heap
	count   uint64 // frames added so far
}

// never is the arrival of the next frame of an empty flight.
const never = time.Duration(math.MaxInt64)

func (f *flight) add(arrival time.Duration, b []byte) {
	f.count++
	x := frame{arrival, f.count, b}
	if n := len(f.ordered); n > f.head && f.ordered[n-1].arrival > x.arrival {
		heap.Push(&f.other, x)
		return
	}
	if f.head > len(f.ordered)/2 {
		n := copy(f.ordered, f.ordered[f.head:])
		clear(f.ordered[n:])
		f.ordered, f.head = f.ordered[:n], 0
	}
	f.ordered = append(f.ordered, x)
}

// next returns when the next frame arrives.
func (f *flight) next() time.Duration {
	if x := f.peek(); x != nil {
		return x.arrival
	}
	return never
}

// peek returns the frame that arrives next, nil if there is none.
func (f *flight) peek() (x *frame) {
	if f.head < len(f.ordered) {
		x = &f.ordered[f.head]
	}
	if len(f.other) > 0 && (x == nil || f.other[0].before(x)) {
		x = &f.other[0]
	}
	return x
}

// take removes and returns the frame that arrives next. The flight must not be empty.
func (f *flight) take() frame {
	if len(f.other) > 0 && f.peek() == &f.other[0] {
		return heap.Pop(&f.other).(frame)
	}
	x := f.ordered[f.head]
	f.head++
	return x
}

// frames is a heap ordered by arrival.
type frames []frame

func (f frames) Len() int           { return len(f) }
func (f frames) Swap(i, j int)      { f[i], f[j] = f[j], f[i] }
func (f frames) Less(i, j int) bool { return f[i].before(&f[j]) }

// Push implements heap.Interface.
func (f *frames) Push(x any) { *f = append(*f, x.(frame)) }

// Pop implements heap.Interface.
func (f *frames) Pop() any {
	old := *f
	last := old[len(old)-1]
	old[len(old)-1] = frame{}
	*f = old[:len(old)-1]
	return last
}
