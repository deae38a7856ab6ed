// Package key holds the kinds of Curve25519 key that the wire protocols name, each as a type of its
// own, so that a disco key cannot be passed where a node key is meant.
//
// Text forms follow the DERP specification, section 10: lower-case hex behind a prefix that tells
// the kind; readers accept both cases. Private keys print as "(private key)" through fmt and slog
// whatever the verb; only MarshalText reveals one, and only key files use it.
package key

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/curve25519"
)

// Size is the length in bytes of every key of this package.
const Size = 32

// redacted stands for a private key wherever one would be printed.
const redacted = "(private key)"

// errZero reports a public key that every implementation must refuse before any curve operation.
var errZero = errors.New("key is all zero")

// generate returns a fresh clamped private key (RFC 7748, section 5).
func generate() (k [Size]byte) {
	rand.Read(k[:]) // never fails: crypto/rand ends the process instead
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// public returns the Curve25519 public key of a private one.
func public(priv *[Size]byte) (pub [Size]byte) {
	curve25519.ScalarBaseMult(&pub, priv)
	return pub
}

// appendText appends prefix and the hex digits of k to b.
func appendText(b []byte, prefix string, k *[Size]byte) []byte {
	b = append(b, prefix...)
	return hex.AppendEncode(b, k[:])
}

// parseText reads exactly prefix and 64 hex digits. The error never repeats the value: it may be a
// secret.
func parseText(s, prefix string) (k [Size]byte, err error) {
	digits, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return k, fmt.Errorf("key does not start with %q", prefix)
	}
	if len(digits) != 2*Size {
		return k, fmt.Errorf("key after %q has %d characters, want %d hex digits", prefix, len(digits), 2*Size)
	}
	if _, err := hex.Decode(k[:], []byte(digits)); err != nil {
		return [Size]byte{}, fmt.Errorf("key after %q is not hexadecimal", prefix)
	}
	return k, nil
}
