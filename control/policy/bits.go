package policy

// bitRows is a matrix of bits.
type bitRows struct {
	width int // words of a row
	words []uint64
}

func newBitRows(rows, columns int) bitRows {
	width := (columns + 63) / 64
	return bitRows{width, make([]uint64, rows*width)}
}

func (b bitRows) row(i int) []uint64       { return b.words[i*b.width : (i+1)*b.width] }
func (b bitRows) has(row, column int) bool { return b.row(row)[column/64]&(1<<(column%64)) != 0 }
func (b bitRows) set(row, column int)      { setBit(b.row(row), column) }

// copy makes column to what column from is.
func (b bitRows) copy(from, to int) {
	if b.width == 0 {
		return
	}
	for row := range len(b.words) / b.width {
		if b.has(row, from) {
			b.set(row, to)
		}
	}
}

func setBit(words []uint64, i int) { words[i/64] |= 1 << (i % 64) }
