package load

import (
	"bytes"
	"math/rand/v2"
)

// period is the length after which the pattern repeats. It is prime, so that pieces lost,
// duplicated or moved by code that works in powers of two or whole packets are detected.
const period = 65521

// maxPiece is the maximum length of a piece of the pattern.
const maxPiece = 64 << 10

// pattern is never changed. It is longer than the period, so that every piece is contiguous.
var pattern = makePattern()

func makePattern() []byte {
	b := make([]byte, period+maxPiece)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range period {
		b[i] = byte(r.Uint32())
	}
	for i := period; i < len(b); i++ {
		b[i] = b[i-period]
	}
	return b
}

// piece returns n bytes of the pattern from offset on, n being at most maxPiece.
func piece(offset uint64, n int) []byte {
	start := offset % period
	return pattern[start : start+uint64(n)]
}

// matches reports whether b equals the pattern at offset.
func matches(b []byte, offset uint64) bool {
	for len(b) > 0 {
		n := min(len(b), maxPiece)
		if !bytes.Equal(b[:n], piece(offset, n)) {
			return false
		}
		b, offset = b[n:], offset+uint64(n)
	}
	return true
}
