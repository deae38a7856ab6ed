package filter

import (
	"encoding/binary"
	"slices"
)

// tree finds which of many overlapping sets of addresses contain an address. It is a segment tree.
// The boundaries of all sets divide the address space into elementary intervals, the leaves. Each
// set is stored at the few nodes whose intervals together make it up. The sets that contain an
// address are those stored on the path from its leaf to the root.
type tree[T any] struct {
	starts []ip // first addresses of the elementary intervals; the first is zero
	// at holds the value of each node, or nil. The children of node i are 2i and 2i+1; the leaves are
	// the upper half.
	at []*T
}

// newTree builds the tree of sets, each of which is sorted and without overlap. pack makes the
// value of a node from the indexes of the sets that are stored there. Nodes with the same sets
// share one value.
func newTree[T any](sets [][]span, pack func(sets []int) *T) *tree[T] {
	t := &tree[T]{starts: []ip{{}}}
	for _, set := range sets {
		for _, s := range set {
			t.starts = append(t.starts, s.first)
			if after := s.last.next(); after != (ip{}) {
				t.starts = append(t.starts, after)
			}
		}
	}
	slices.SortFunc(t.starts, ip.compare)
	t.starts = slices.Clip(slices.Compact(t.starts))

	n := len(t.starts)
	stored := make([][]int, 2*n)
	for i, set := range sets {
		for _, s := range set {
			for l, r := t.leaf(s.first), t.leaf(s.last)+1; l < r; l, r = l/2, r/2 {
				if l%2 == 1 {
					stored[l] = append(stored[l], i)
					l++
				}
				if r%2 == 1 {
					r--
					stored[r] = append(stored[r], i)
				}
			}
		}
	}
	t.at = make([]*T, 2*n)
	packed := make(map[string]*T)
	var name []byte
	for i, here := range stored {
		if len(here) == 0 {
			continue
		}
		name = name[:0]
		for _, set := range here {
			name = binary.AppendUvarint(name, uint64(set))
		}
		if packed[string(name)] == nil {
			packed[string(name)] = pack(here)
		}
		t.at[i] = packed[string(name)]
	}
	return t
}

// leaf returns the leaf whose interval contains a. The parent of node i is i/2; the root is 1.
func (t *tree[T]) leaf(a ip) int {
	low, high := 0, len(t.starts)-1 // searches the last start <= a
	for low < high {
		if mid := (low + high + 1) / 2; a.less(t.starts[mid]) {
			high = mid - 1
		} else {
			low = mid
		}
	}
	return low + len(t.starts)
}
