package key

import (
	"crypto/rand"

	"golang.org/x/crypto/nacl/box"
)

const (
	// NonceSize is the length of the nonce that precedes each box.
	NonceSize = 24
	// Overhead is what Seal adds to a plaintext: the nonce and the Poly1305 tag.
	Overhead = NonceSize + box.Overhead
)

// Shared is the symmetric key of all NaCl boxes between two parties, the same in both directions.
// Computing it costs a scalar multiplication, so it is kept where boxes are frequent.
type Shared struct{ k [Size]byte }

func newShared(priv, pub *[Size]byte) (*Shared, error) {
	if err := checkPublic(*pub); err != nil {
		return nil, err
	}
	s := new(Shared)
	box.Precompute(&s.k, pub, priv)
	return s, nil
}

// Seal appends a fresh random nonce and the box of plaintext to dst. They must not overlap.
func (s *Shared) Seal(dst, plaintext []byte) []byte {
	var nonce [NonceSize]byte
	rand.Read(nonce[:])
	return s.SealWithNonce(dst, &nonce, plaintext)
}

// SealWithNonce is Seal for a nonce that the caller chose. A nonce must never be used twice.
func (s *Shared) SealWithNonce(dst []byte, nonce *[NonceSize]byte, plaintext []byte) []byte {
	dst = append(dst, nonce[:]...)
	return box.SealAfterPrecomputation(dst, plaintext, nonce, &s.k)
}

// Open appends to dst the plaintext of sealed, which is a nonce followed by a box. It reports false
// if sealed is too short, damaged or made for others.
func (s *Shared) Open(dst, sealed []byte) ([]byte, bool) {
	if len(sealed) < Overhead {
		return nil, false
	}
	nonce := [NonceSize]byte(sealed)
	return box.OpenAfterPrecomputation(dst, sealed[NonceSize:], &nonce, &s.k)
}
