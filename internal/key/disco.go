package key

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
)

const discoPublicPrefix = "discokey:"

// DiscoPublic names a node in path discovery (disco). It lives as long as the process that made it.
type DiscoPublic [Size]byte

// ParseDiscoPublic reads the form "discokey:" and 64 hex digits.
func ParseDiscoPublic(s string) (DiscoPublic, error) {
	k, err := parseText(s, discoPublicPrefix)
	return DiscoPublic(k), err
}

// IsZero reports whether k is the zero key: the node does not take part in discovery.
func (k DiscoPublic) IsZero() bool { return k == DiscoPublic{} }

// Compare orders keys by their bytes, as relay allocations list them.
func (k DiscoPublic) Compare(o DiscoPublic) int { return bytes.Compare(k[:], o[:]) }

// String returns "discokey:" and 64 lower-case hex digits.
func (k DiscoPublic) String() string {
	return string(appendText(nil, discoPublicPrefix, (*[Size]byte)(&k)))
}

// LogValue logs the first eight hex digits.
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

// DiscoPrivate is the private half of a disco key. It has no text form: it is never stored.
type DiscoPrivate struct{ k [Size]byte }

// NewDiscoPrivate makes a fresh key.
func NewDiscoPrivate() DiscoPrivate { return DiscoPrivate{generate()} }

// DiscoPrivateFromRaw takes over 32 bytes, as test vectors give them.
func DiscoPrivateFromRaw(b [Size]byte) DiscoPrivate { return DiscoPrivate{b} }

// IsZero reports whether no key is held.
func (k DiscoPrivate) IsZero() bool { return k == DiscoPrivate{} }

// Public returns the key announced to peers.
func (k DiscoPrivate) Public() DiscoPublic { return DiscoPublic(public(&k.k)) }

// Shared derives the key of the NaCl boxes between k and peer. A zero peer is refused.
func (k DiscoPrivate) Shared(peer DiscoPublic) (*Shared, error) {
	return newShared(&k.k, (*[Size]byte)(&peer))
}

// Format implements fmt.Formatter so that no verb reveals the key.
func (k DiscoPrivate) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer and reveals nothing.
func (k DiscoPrivate) LogValue() slog.Value { return slog.StringValue(redacted) }
