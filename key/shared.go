package key

import (
	"crypto/rand"

	"golang.org/x/crypto/nacl/box"
)

const (
	// NonceSize is the size in bytes of the nonce before each box.
	NonceSize = 24
	// Overhead is how many bytes Seal adds to a plaintext: the nonce and the Poly1305 tag.
	Overhead = NonceSize + box.Overhead
)

// Shared is the symmetric key of the NaCl boxes between two parties, the same in both directions.
// Deriving it takes a scalar multiplication, so callers with frequent boxes keep it.
type Shared struct{ k [Size]byte }

func newShared(priv, pub *[Size]byte) (*Shared, error) {
	if err := checkPublic(*pub); err != nil {
		return nil, err
	}
	s := new(Shared)
	box.Precompute(&s.k, pub, priv)
	return s, nil
}

// Seal appends a random nonce and the box of plaintext to dst. dst and plaintext must not overlap.
func (s *Shared) Seal(dst, plaintext []byte) []byte {
	var nonce [NonceSize]byte
	rand.Read(nonce[:])
	return s.SealWithNonce(dst, &nonce, plaintext)
}

// SealWithNonce is Seal with a nonce of the caller's, which must never be used twice.
func (s *Shared) SealWithNonce(dst []byte, nonce *[NonceSize]byte, plaintext []byte) []byte {
	dst = append(dst, nonce[:]...)
	return box.SealAfterPrecomputation(dst, plaintext, nonce, &s.k)
}

// Open decrypts sealed, a nonce followed by a box, and appends the plaintext to dst. It reports
// false if sealed is too short, damaged or sealed with another key.
func (s *Shared) Open(dst, sealed []byte) ([]byte, bool) {
	if len(sealed) < Overhead {
		return nil, false
	}
	nonce := [NonceSize]byte(sealed)
	return box.OpenAfterPrecomputation(dst, sealed[NonceSize:], &nonce, &s.k)
}
