package filter

import (
	"encoding/binary"
	"slices"
)

// tree answers which of many overlapping sets of addresses contain an address. It is a segment
// tree: the boundaries of all sets cut the addresses into pieces, the leaves; a set is noted at the
// few inner nodes that together cover it, so that wide and narrow sets need little space, and the
// sets around an address are those noted on the way up from its leaf.
type tree[T any] struct {
	starts []ip // where the pieces begin; the first is zero
	at     []*T // the children of node i are 2i and 2i+1, the leaves are the upper half; nil where nothing is noted
}

// newTree builds the tree of sets, each in order and without overlap. What is noted at a node is
// made by pack of the indexes of the sets that belong there; nodes with the same sets share it.
func newTree[T any](sets [][]span, pack func(sets []int) *T) *tree[T] {
	t := &tree[T]{starts: []ip{{}}}
	for _, set := range sets {
		for _, s := range set {
			t.starts = append(t.starts, s.first)
			if behind := s.last.next(); behind != (ip{}) {
				t.starts = append(t.starts, behind)
			}
		}
	}
	slices.SortFunc(t.starts, ip.compare)
	t.starts = slices.Clip(slices.Compact(t.starts))

	n := len(t.starts)
	noted := make([][]int, 2*n)
	for i, set := range sets {
		for _, s := range set {
			for l, r := t.leaf(s.first), t.leaf(s.last)+1; l < r; l, r = l/2, r/2 {
				if l%2 == 1 {
					noted[l] = append(noted[l], i)
					l++
				}
				if r%2 == 1 {
					r--
					noted[r] = append(noted[r], i)
				}
			}
		}
	}
	t.at = make([]*T, 2*n)
	packed := make(map[string]*T)
	var name []byte
	for i, here := range noted {
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

// leaf is the node of the piece that a lies in. From there the way up is i/2 until it is zero.
func (t *tree[T]) leaf(a ip) int {
	low, high := 0, len(t.starts)-1 // the last piece that does not begin behind a
	for low < high {
		if mid := (low + high + 1) / 2; a.less(t.starts[mid]) {
			high = mid - 1
		} else {
			low = mid
		}
	}
	return low + len(t.starts)
}
