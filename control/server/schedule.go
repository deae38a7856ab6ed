package server

import (
	"cmp"
	"container/heap"
	"math"
	"time"
)

// retryDue is how long a due event waits before it is tried again, in case the store refused the
// change that the event caused.
const retryDue = 5 * time.Second

// timers schedule the events that happen to nodes and logins without a request. The expiries of
// node keys are on the wall clock (moment.now), all others on the monotonic clock (moment.mono).
type timers struct {
	nodes     schedule[int64]  // absent nodes and duplicate keys; see core.nodeDeadline
	expiries  schedule[int64]  // of node keys
	elections schedule[int64]  // nodes whose election has to be stored
	logins    schedule[string] // see core.loginDeadline
}

// wait returns how long it is until the next event.
func (t *timers) wait(m moment) time.Duration {
	wait := time.Duration(math.MaxInt64)
	for _, at := range []time.Time{t.nodes.next(), t.elections.next(), t.logins.next()} {
		if !at.IsZero() {
			wait = min(wait, at.Sub(m.mono))
		}
	}
	if at := t.expiries.next(); !at.IsZero() {
		wait = min(wait, at.Sub(m.now))
	}
	return wait
}

// schedule holds the time at which each key is due, one time per key. The zero value is empty.
type schedule[K cmp.Ordered] struct {
	items map[K]*scheduled[K]
	queue dueHeap[K]
}

type scheduled[K cmp.Ordered] struct {
	at    time.Time
	key   K
	index int
}

// set replaces the time of k. The zero time removes k.
func (s *schedule[K]) set(k K, at time.Time) {
	a := s.items[k]
	switch {
	case a == nil && at.IsZero():
	case a == nil:
		if s.items == nil {
			s.items = make(map[K]*scheduled[K])
		}
		a = &scheduled[K]{at: at, key: k}
		s.items[k] = a
		heap.Push(&s.queue, a)
	case at.IsZero():
		heap.Remove(&s.queue, a.index)
		delete(s.items, k)
	case !a.at.Equal(at):
		a.at = at
		heap.Fix(&s.queue, a.index)
	}
}

// next returns the earliest time; the zero time means that the schedule is empty.
func (s *schedule[K]) next() time.Time {
	if len(s.queue) == 0 {
		return time.Time{}
	}
	return s.queue[0].at
}

// pop removes and returns a key that is due.
func (s *schedule[K]) pop(now time.Time) (k K, ok bool) {
	if len(s.queue) == 0 || s.queue[0].at.After(now) {
		return k, false
	}
	a := heap.Pop(&s.queue).(*scheduled[K])
	delete(s.items, a.key)
	return a.key, true
}

// dueHeap implements heap.Interface.
type dueHeap[K cmp.Ordered] []*scheduled[K]

func (q dueHeap[K]) Len() int { return len(q) }

func (q dueHeap[K]) Less(i, j int) bool {
	if c := q[i].at.Compare(q[j].at); c != 0 {
		return c < 0
	}
	return q[i].key < q[j].key
}

func (q dueHeap[K]) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *dueHeap[K]) Push(x any) {
	a := x.(*scheduled[K])
	a.index = len(*q)
	*q = append(*q, a)
}

func (q *dueHeap[K]) Pop() any {
	old := *q
	a := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return a
}
