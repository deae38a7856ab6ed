package key

import (
	"testing"

	"golang.org/x/crypto/curve25519"
)

// Every key in the list is refused, and the shared secret with each of them is zero.
func TestLowOrder(t *testing.T) {
	scalar := generate()
	for _, k := range lowOrder {
		for _, high := range []byte{0, 0x80} {
			k[Size-1] |= high
			if _, err := curve25519.X25519(scalar[:], k[:]); err == nil {
				t.Errorf("%x is no point of low order", k)
			}
			if NodePublic(k).Check() == nil {
				t.Errorf("%x is accepted as a node key", k)
			}
			if _, err := NewNodePrivate().Shared(NodePublic(k)); err == nil {
				t.Errorf("a box can be made for %x", k)
			}
			if _, err := NewDiscoPrivate().Shared(DiscoPublic(k)); err == nil {
				t.Errorf("a disco message can be made for %x", k)
			}
		}
	}
	for range 100 {
		if err := NewNodePrivate().Public().Check(); err != nil {
			t.Errorf("a good key is refused: %v", err)
		}
	}
}
