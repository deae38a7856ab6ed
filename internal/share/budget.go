package share

import "sync"

// budgetGreed is how many times what is free a source may use of a Budget. So one source gets three
// quarters of it at most, and some is always left for a source that comes later (Choudhury and
// Hahne, "Dynamic Queue Length Thresholds", 1998).
const budgetGreed = 3

// Budget is room of a given size, in any unit, that sources share. Size must not be changed once
// Take has been called. Budget is safe for concurrent use.
type Budget[S comparable] struct {
	Size int

	mu   sync.Mutex
	used int
	by   map[S]int
}

// Take reserves n for a source, and reports whether there was room. Give has to follow.
func (b *Budget[S]) Take(s S, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	free := b.Size - b.used
	if n > free || b.by[s]+n > budgetGreed*free {
		return false
	}
	if b.by == nil {
		b.by = make(map[S]int)
	}
	b.used += n
	b.by[s] += n
	return true
}

// Give returns n that a source has taken.
func (b *Budget[S]) Give(s S, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.by[s] -= n; b.by[s] == 0 {
		delete(b.by, s)
	}
}
