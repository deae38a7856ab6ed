package share

import (
	"cmp"
	"container/heap"
	"container/list"
	"iter"
	"maps"
)

// Table records which things, such as connections, each source holds, from the oldest to the
// newest. When there is no room for another thing, it says which one must go so that the shares
// become fairer. The zero Table is empty. Methods take at most logarithmic time in the number of
// sources, except Held and All, which take linear time.
type Table[S, T comparable] struct {
	held     map[T]*holding[S, T]
	sources  map[S]*source[S, T]
	byCount  sourceHeap[S, T]
	sequence uint64 // sequence number of the newest holding
}

// holding is one thing that a source holds.
type holding[S, T comparable] struct {
	v      T
	number uint64 // sequence number of Add or the last Renew
	of     *source[S, T]
	at     *list.Element // in of.held
}

// source is a source that holds at least one thing.
type source[S, T comparable] struct {
	name  S
	held  list.List // of *holding, the oldest first
	index int       // in the heap
}

func (s *source[S, T]) oldest() *holding[S, T] { return s.held.Front().Value.(*holding[S, T]) }

// Add records that a source holds v, as its newest. If v is held already, Add removes it first.
func (t *Table[S, T]) Add(s S, v T) {
	t.Remove(v)
	if t.held == nil {
		t.held, t.sources = make(map[T]*holding[S, T]), make(map[S]*source[S, T])
	}
	of := t.sources[s]
	if of == nil {
		of = &source[S, T]{name: s}
		t.sources[s] = of
	}
	t.sequence++
	h := &holding[S, T]{v: v, number: t.sequence, of: of}
	h.at = of.held.PushBack(h)
	t.held[v] = h
	if of.held.Len() == 1 {
		heap.Push(&t.byCount, of)
	} else {
		heap.Fix(&t.byCount, of.index)
	}
}

// Remove records that v is no longer held, and reports whether it was.
func (t *Table[S, T]) Remove(v T) bool {
	h := t.held[v]
	if h == nil {
		return false
	}
	delete(t.held, v)
	h.of.held.Remove(h.at)
	if h.of.held.Len() == 0 {
		heap.Remove(&t.byCount, h.of.index)
		delete(t.sources, h.of.name)
	} else {
		heap.Fix(&t.byCount, h.of.index)
	}
	return true
}

// Renew makes v the newest of its source, if it is held.
func (t *Table[S, T]) Renew(v T) {
	if h := t.held[v]; h != nil {
		t.sequence++
		h.number = t.sequence
		h.of.held.MoveToBack(h.at)
		heap.Fix(&t.byCount, h.of.index)
	}
}

// Len returns how many things are held in total.
func (t *Table[S, T]) Len() int { return len(t.held) }

// Count returns how many things a source holds.
func (t *Table[S, T]) Count(s S) int {
	if of := t.sources[s]; of != nil {
		return of.held.Len()
	}
	return 0
}

// Held yields everything that is held, in no order. The table must not be changed during the
// iteration.
func (t *Table[S, T]) Held() iter.Seq[T] { return maps.Keys(t.held) }

// All yields what a source holds, the oldest first. The table must not be changed during the
// iteration.
func (t *Table[S, T]) All(s S) iter.Seq[T] {
	return func(yield func(T) bool) {
		of := t.sources[s]
		if of == nil {
			return
		}
		for e := of.held.Front(); e != nil; e = e.Next() {
			if !yield(e.Value.(*holding[S, T]).v) {
				return
			}
		}
	}
}

// Greediest returns the source that holds most and the oldest thing that it holds. Of several
// sources with the same count, it is the one that holds the oldest thing. It reports false if the
// table is empty.
func (t *Table[S, T]) Greediest() (s S, oldest T, ok bool) {
	if len(t.byCount) == 0 {
		return s, oldest, false
	}
	return t.byCount[0].name, t.byCount[0].oldest().v, true
}

// Claim returns the thing that must go so that s may hold one more: the oldest of the greediest
// source. It reports false if that source would then hold less than s.
func (t *Table[S, T]) Claim(s S) (of S, oldest T, ok bool) {
	of, oldest, ok = t.Greediest()
	return of, oldest, ok && t.Count(of) > t.Count(s)+1
}

// Displace is Claim for a thing that s may hold in any case. If Claim finds none, the oldest thing
// of s itself must go or, if s holds nothing, the oldest of the greediest source. It reports false
// only if the table is empty.
func (t *Table[S, T]) Displace(s S) (of S, oldest T, ok bool) {
	if of, oldest, ok = t.Claim(s); ok {
		return of, oldest, true
	}
	if own := t.sources[s]; own != nil {
		return s, own.oldest().v, true
	}
	return t.Greediest()
}

// Idlest returns the least recently used thing of the greediest source; used returns the time of
// the last use. It reports false if the table is empty. It takes linear time in what that source
// holds.
func Idlest[S, T comparable, C cmp.Ordered](t *Table[S, T], used func(T) C) (v T, ok bool) {
	greediest, v, ok := t.Greediest()
	for other := range t.All(greediest) {
		if used(other) < used(v) {
			v = other
		}
	}
	return v, ok
}

// sourceHeap is a heap of sources with the one that holds most at the top. It implements
// heap.Interface.
type sourceHeap[S, T comparable] []*source[S, T]

func (h sourceHeap[S, T]) Len() int { return len(h) }

// Less implements heap.Interface.
func (h sourceHeap[S, T]) Less(i, j int) bool {
	a, b := h[i], h[j]
	if a.held.Len() != b.held.Len() {
		return a.held.Len() > b.held.Len()
	}
	return a.oldest().number < b.oldest().number
}

func (h sourceHeap[S, T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *sourceHeap[S, T]) Push(x any) {
	s := x.(*source[S, T])
	s.index = len(*h)
	*h = append(*h, s)
}

// Pop implements heap.Interface.
func (h *sourceHeap[S, T]) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return s
}
