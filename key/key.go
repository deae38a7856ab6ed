// Package key has a type for each kind of Curve25519 key in the wire protocols, so that the
// compiler rejects a disco key where a node key is needed.
//
// The text form of a key is a prefix for its kind and 64 lower-case hex digits (DERP specification,
// section 10); parsers accept upper case too. fmt and slog print a private key as "(private key)";
// only MarshalText reveals it, for files that store keys.
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

// redacted is printed instead of a private key.
const redacted = "(private key)"

// errZero: the public key is all zero, which every implementation must refuse.
var errZero = errors.New("key is all zero")

// generate returns a new clamped private key (RFC 7748, section 5).
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

// parseText parses a key of exactly prefix and 64 hex digits. Its error does not quote s, which may
// be a secret.
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
