package policy

// bitMatrix is a matrix of bits, stored row by row.
type bitMatrix struct {
	width int // words per row
	words []uint64
}

func newBitMatrix(rows, columns int) bitMatrix {
	width := (columns + 63) / 64
	return bitMatrix{width, make([]uint64, rows*width)}
}

func (b bitMatrix) row(i int) []uint64       { return b.words[i*b.width : (i+1)*b.width] }
func (b bitMatrix) has(row, column int) bool { return b.row(row)[column/64]&(1<<(column%64)) != 0 }
func (b bitMatrix) set(row, column int)      { setBit(b.row(row), column) }

// copy copies column from to column to, which must be empty.
func (b bitMatrix) copy(from, to int) {
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
