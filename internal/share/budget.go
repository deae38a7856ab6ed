package share

import "sync"

// budgetFactor bounds a source to this many times the free part of a Budget. One source therefore
// gets at most three quarters, and a source that comes later always finds some room (Choudhury and
// Hahne, "Dynamic Queue Length Thresholds", 1998).
const budgetFactor = 3

// Budget is an amount of a given Size, in any unit, that sources share. Size must not be changed
// once Take has been called. Budget is safe for concurrent use.
type Budget[S comparable] struct {
	Size int

	mu   sync.Mutex
	used int
	by   map[S]int
}

// Take reserves n for a source and reports whether there was room. If so, Give must follow.
func (b *Budget[S]) Take(s S, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	free := b.Size - b.used
	if n > free || b.by[s]+n > budgetFactor*free {
		return false
	}
	if b.by == nil {
		b.by = make(map[S]int)
	}
	b.used += n
	b.by[s] += n
	return true
}

// Give returns n that a source has taken to the free part.
func (b *Budget[S]) Give(s S, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.by[s] -= n; b.by[s] == 0 {
		delete(b.by, s)
	}
}
