package load

import (
	"bytes"
	"math/rand/v2"
)

// period is the length after which the pattern repeats. It is a prime, so that a piece that is
// lost, doubled or put in another place by whatever works in powers of two or whole packets does
// not go unseen.
const period = 65521

// maxPiece is the most that comes from the pattern at once.
const maxPiece = 64 << 10

// pattern is filled once and not changed; it is longer than the period so that every piece is in
// one place.
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

// piece returns n bytes of the pattern, at most maxPiece, from an offset on.
func piece(offset uint64, n int) []byte {
	start := offset % period
	return pattern[start : start+uint64(n)]
}

// matches reports whether b is what the pattern has at an offset.
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
