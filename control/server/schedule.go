package server

import (
	"cmp"
	"container/heap"
	"time"
)

// schedule knows when something is due for which key, at most one time each. The zero value is
// empty.
type schedule[K cmp.Ordered] struct {
	items map[K]*alarm[K]
	queue alarms[K]
}

type alarm[K cmp.Ordered] struct {
	at    time.Time
	key   K
	index int
}

// set says when k is due, instead of what was said before; the zero time means never.
func (s *schedule[K]) set(k K, at time.Time) {
	a := s.items[k]
	switch {
	case a == nil && at.IsZero():
	case a == nil:
		if s.items == nil {
			s.items = make(map[K]*alarm[K])
		}
		a = &alarm[K]{at: at, key: k}
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

// next returns when pop has something to return; the zero time means never.
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
	a := heap.Pop(&s.queue).(*alarm[K])
	delete(s.items, a.key)
	return a.key, true
}

// alarms implements heap.Interface.
type alarms[K cmp.Ordered] []*alarm[K]

func (q alarms[K]) Len() int { return len(q) }

func (q alarms[K]) Less(i, j int) bool {
	if c := q[i].at.Compare(q[j].at); c != 0 {
		return c < 0
	}
	return q[i].key < q[j].key
}

func (q alarms[K]) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *alarms[K]) Push(x any) {
	a := x.(*alarm[K])
	a.index = len(*q)
	*q = append(*q, a)
}

func (q *alarms[K]) Pop() any {
	old := *q
	a := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return a
}
