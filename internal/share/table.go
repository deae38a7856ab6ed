package share

import (
	"cmp"
	"container/heap"
	"container/list"
	"iter"
	"maps"
)

// Table knows what each source holds of something limited, in the order in which it was taken, and
// what has to be given back so that another source gets its share. The zero Table is empty. Every
// method takes logarithmic time in the number of sources, or less; Held and All take linear time.
type Table[S, T comparable] struct {
	held    map[T]*holding[S, T]
	sources map[S]*source[S, T]
	greed   greed[S, T]
	last    uint64 // number of the latest holding
}

// holding is one thing that a source holds.
type holding[S, T comparable] struct {
	v      T
	number uint64 // in the order of Add and Renew
	of     *source[S, T]
	at     *list.Element // in of.held
}

// source is one that holds something.
type source[S, T comparable] struct {
	name  S
	held  list.List // of *holding, the oldest first
	index int       // in the heap
}

func (s *source[S, T]) oldest() *holding[S, T] { return s.held.Front().Value.(*holding[S, T]) }

// Add notes that a source holds v, as its newest. If v is held already it is given up first.
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
	t.last++
	h := &holding[S, T]{v: v, number: t.last, of: of}
	h.at = of.held.PushBack(h)
	t.held[v] = h
	if of.held.Len() == 1 {
		heap.Push(&t.greed, of)
	} else {
		heap.Fix(&t.greed, of.index)
	}
}

// Remove notes that v is held no more, and reports whether it was.
func (t *Table[S, T]) Remove(v T) bool {
	h := t.held[v]
	if h == nil {
		return false
	}
	delete(t.held, v)
	h.of.held.Remove(h.at)
	if h.of.held.Len() == 0 {
		heap.Remove(&t.greed, h.of.index)
		delete(t.sources, h.of.name)
	} else {
		heap.Fix(&t.greed, h.of.index)
	}
	return true
}

// Renew makes v, if it is held, the newest of its source.
func (t *Table[S, T]) Renew(v T) {
	if h := t.held[v]; h != nil {
		t.last++
		h.number = t.last
		h.of.held.MoveToBack(h.at)
		heap.Fix(&t.greed, h.of.index)
	}
}

// Len returns how many things are held.
func (t *Table[S, T]) Len() int { return len(t.held) }

// Count returns how many of them a source holds.
func (t *Table[S, T]) Count(s S) int {
	if of := t.sources[s]; of != nil {
		return of.held.Len()
	}
	return 0
}

// Held yields everything that is held, in no order. The table must not be changed meanwhile.
func (t *Table[S, T]) Held() iter.Seq[T] { return maps.Keys(t.held) }

// All yields what a source holds, the oldest first. The table must not be changed meanwhile.
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

// Greediest returns the source that holds most, and its oldest. Of several that hold as much it is
// the one with the oldest. It reports false if the table is empty.
func (t *Table[S, T]) Greediest() (s S, oldest T, ok bool) {
	if len(t.greed) == 0 {
		return s, oldest, false
	}
	return t.greed[0].name, t.greed[0].oldest().v, true
}

// Claim returns what the greediest source has to give up so that s may have one more: its oldest.
// It reports false if no source would still hold as much as s after that.
func (t *Table[S, T]) Claim(s S) (of S, oldest T, ok bool) {
	of, oldest, ok = t.Greediest()
	return of, oldest, ok && t.Count(of) > t.Count(s)+1
}

// Displace is Claim for what a newcomer may always have. If no other source has too much, s gives
// up its own oldest; if s holds nothing, the oldest of all goes. It reports false if the table is
// empty.
func (t *Table[S, T]) Displace(s S) (of S, oldest T, ok bool) {
	if of, oldest, ok = t.Claim(s); ok {
		return of, oldest, true
	}
	if own := t.sources[s]; own != nil {
		return s, own.oldest().v, true
	}
	return t.Greediest()
}

// Idlest returns what was used the longest time ago of what the greediest source holds; used tells
// when. It reports false if the table is empty. It takes linear time in what the source holds.
func Idlest[S, T comparable, C cmp.Ordered](t *Table[S, T], used func(T) C) (v T, ok bool) {
	greediest, v, ok := t.Greediest()
	for other := range t.All(greediest) {
		if used(other) < used(v) {
			v = other
		}
	}
	return v, ok
}

// greed orders sources by how much they hold, those with most first; it implements heap.Interface.
type greed[S, T comparable] []*source[S, T]

func (g greed[S, T]) Len() int { return len(g) }

// Less implements heap.Interface.
func (g greed[S, T]) Less(i, j int) bool {
	a, b := g[i], g[j]
	if a.held.Len() != b.held.Len() {
		return a.held.Len() > b.held.Len()
	}
	return a.oldest().number < b.oldest().number
}

func (g greed[S, T]) Swap(i, j int) {
	g[i], g[j] = g[j], g[i]
	g[i].index, g[j].index = i, j
}

// Push implements heap.Interface.
func (g *greed[S, T]) Push(x any) {
	s := x.(*source[S, T])
	s.index = len(*g)
	*g = append(*g, s)
}

// Pop implements heap.Interface.
func (g *greed[S, T]) Pop() any {
	last := len(*g) - 1
	s := (*g)[last]
	(*g)[last] = nil
	*g = (*g)[:last]
	return s
}
