package key

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
)

const discoPublicPrefix = "discokey:"

// DiscoPublic is a node's public key in path discovery (disco). Each process of a node makes a new
// one.
type DiscoPublic [Size]byte

// ParseDiscoPublic reads the form "discokey:" and 64 hex digits.
func ParseDiscoPublic(s string) (DiscoPublic, error) {
	k, err := parseText(s, discoPublicPrefix)
	return DiscoPublic(k), err
}

// IsZero reports whether k is the zero key, which means that the node does not use disco.
func (k DiscoPublic) IsZero() bool { return k == DiscoPublic{} }

// Compare orders keys by their bytes, the order in which peer relay allocations list them.
func (k DiscoPublic) Compare(o DiscoPublic) int { return bytes.Compare(k[:], o[:]) }

// String returns "discokey:" and 64 lower-case hex digits.
func (k DiscoPublic) String() string {
	return string(appendText(nil, discoPublicPrefix, (*[Size]byte)(&k)))
}

// LogValue implements slog.LogValuer: "d:" and the first eight hex digits.
func (k DiscoPublic) LogValue() slog.Value { return slog.StringValue(fmt.Sprintf("d:%x", k[:4])) }

// AppendText implements encoding.TextAppender.
func (k DiscoPublic) AppendText(b []byte) ([]byte, error) {
	return appendText(b, discoPublicPrefix, (*[Size]byte)(&k)), nil
}

// MarshalText implements encoding.TextMarshaler.
func (k DiscoPublic) MarshalText() ([]byte, error) { return k.AppendText(nil) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *DiscoPublic) UnmarshalText(b []byte) (err error) {
	*k, err = ParseDiscoPublic(string(b))
	return err
}

// DiscoPrivate is the private half of a disco key. It has no text form because it is never stored.
type DiscoPrivate struct{ k [Size]byte }

// NewDiscoPrivate generates a key.
func NewDiscoPrivate() DiscoPrivate { return DiscoPrivate{generate()} }

// DiscoPrivateFromRaw returns the key with these bytes. Only test vectors need it.
func DiscoPrivateFromRaw(b [Size]byte) DiscoPrivate { return DiscoPrivate{b} }

// IsZero reports whether k is the zero key.
func (k DiscoPrivate) IsZero() bool { return k == DiscoPrivate{} }

// Public returns the public key, which is announced to peers.
func (k DiscoPrivate) Public() DiscoPublic { return DiscoPublic(public(&k.k)) }

// Shared derives the key of the NaCl boxes between k and peer. It refuses keys that Check of a
// NodePublic would refuse.
func (k DiscoPrivate) Shared(peer DiscoPublic) (*Shared, error) {
	return newShared(&k.k, (*[Size]byte)(&peer))
}

// Format implements fmt.Formatter. No verb reveals the key.
func (k DiscoPrivate) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer. It does not reveal the key.
func (k DiscoPrivate) LogValue() slog.Value { return slog.StringValue(redacted) }
