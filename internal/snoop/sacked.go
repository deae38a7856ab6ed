package snoop

import "slices"

// Block is a range of sequence numbers, [Start, End).
type Block struct{ Start, End uint32 }

// blocks is a set of sequence numbers, as sorted ranges that do not touch. It holds what was
// selectively acknowledged, so that the packets of a block need not be visited again when the peer
// repeats the block.
type blocks []Block

// maxBlocks bounds the set. Further ranges are not added.
const maxBlocks = 4096

// add adds b, and calls fresh for each part of it that was not in the set.
func (s *blocks) add(b Block, fresh func(Block)) {
	i, _ := slices.BinarySearchFunc(*s, b.Start, func(o Block, seq uint32) int { return int(int32(o.End - seq)) })
	start, end, j, at := b.Start, b.End, i, b.Start
	for ; j < len(*s) && atLeast(b.End, (*s)[j].Start); j++ {
		o := (*s)[j]
		if after(o.Start, at) {
			fresh(Block{at, o.Start})
		}
		at = o.End
		if after(start, o.Start) {
			start = o.Start
		}
		if after(o.End, end) {
			end = o.End
		}
	}
	if after(b.End, at) {
		fresh(Block{at, b.End})
	}
	if i == j && len(*s) >= maxBlocks {
		return
	}
	*s = slices.Replace(*s, i, j, Block{start, end})
}

// forget removes everything below seq.
func (s *blocks) forget(seq uint32) {
	n := 0
	for n < len(*s) && atLeast(seq, (*s)[n].End) {
		n++
	}
	*s = slices.Delete(*s, 0, n)
	if len(*s) > 0 && after(seq, (*s)[0].Start) {
		(*s)[0].Start = seq
	}
}

// holds reports whether all of b is in the set.
func (s blocks) holds(b Block) bool {
	i, _ := slices.BinarySearchFunc(s, b.Start, func(o Block, seq uint32) int {
		if atLeast(seq, o.End) {
			return -1
		}
		return 1
	})
	return i < len(s) && atLeast(b.Start, s[i].Start) && atLeast(s[i].End, b.End)
}
