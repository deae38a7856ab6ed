package derp

import "sync/atomic"

// Budget bounds the memory of queues, in bytes. A limit of zero means no bound, so the zero value
// only counts.
type Budget struct {
	limit  int64
	parent *Budget // the budget that this one is a part of, or nil
	used   atomic.Int64
}

// shareFactor is how many times the free bytes of its parent a part may use. One part therefore
// gets three quarters of the whole at most, and some memory is left for parts that come later
// (Choudhury and Hahne, "Dynamic Queue Length Thresholds", 1998).
const shareFactor = 3

// NewBudget returns a budget of limit bytes. If parent is not nil, every byte counts against the
// parent too.
func NewBudget(limit int64, parent *Budget) *Budget {
	return &Budget{limit: limit, parent: parent}
}

// InUse returns how many bytes are reserved.
func (b *Budget) InUse() int64 { return b.used.Load() }

// Take reserves n bytes and reports whether they were free.
func (b *Budget) Take(n int) bool {
	used := b.used.Add(int64(n))
	if b.limit != 0 && used > b.limit || !b.takeFromParent(n, used) {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

// takeFromParent reserves n bytes of the parent, of which this budget then uses used bytes.
func (b *Budget) takeFromParent(n int, used int64) bool {
	if b.parent == nil {
		return true
	}
	if limit := b.parent.limit; limit != 0 && used > shareFactor*(limit-b.parent.used.Load()) {
		return false
	}
	return b.parent.Take(n)
}

// Give returns n reserved bytes.
func (b *Budget) Give(n int) {
	b.used.Add(-int64(n))
	if b.parent != nil {
		b.parent.Give(n)
	}
}
