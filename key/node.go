package key

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
)

const (
	nodePublicPrefix = "nodekey:"
	privatePrefix    = "privkey:"
)

// NodePublic is a node's public key: its static public key in WireGuard and its address on DERP
// relays.
type NodePublic [Size]byte

// ParseNodePublic reads the form "nodekey:" and 64 hex digits.
func ParseNodePublic(s string) (NodePublic, error) {
	k, err := parseText(s, nodePublicPrefix)
	return NodePublic(k), err
}

// IsZero reports whether k is the zero key, which no node can have.
func (k NodePublic) IsZero() bool { return k == NodePublic{} }

// String returns "nodekey:" and 64 lower-case hex digits.
func (k NodePublic) String() string {
	return string(appendText(nil, nodePublicPrefix, (*[Size]byte)(&k)))
}

// ShortString returns the first five base64 digits in brackets, as in WireGuard's logs. It is not
// unique; use it only for display.
func (k NodePublic) ShortString() string {
	return "[" + base64.StdEncoding.EncodeToString(k[:])[:5] + "]"
}

// LogValue implements slog.LogValuer: the ShortString.
func (k NodePublic) LogValue() slog.Value { return slog.StringValue(k.ShortString()) }

// AppendText implements encoding.TextAppender.
func (k NodePublic) AppendText(b []byte) ([]byte, error) {
	return appendText(b, nodePublicPrefix, (*[Size]byte)(&k)), nil
}

// MarshalText implements encoding.TextMarshaler.
func (k NodePublic) MarshalText() ([]byte, error) { return k.AppendText(nil) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *NodePublic) UnmarshalText(b []byte) (err error) {
	*k, err = ParseNodePublic(string(b))
	return err
}

// NodePrivate is a node's private key: its static private key in WireGuard. The key of a DERP
// server has this type too.
type NodePrivate struct{ k [Size]byte }

// NewNodePrivate generates a key.
func NewNodePrivate() NodePrivate { return NodePrivate{generate()} }

// NodePrivateFromRaw returns the key with these bytes, for keys in other text forms such as that of
// a WireGuard configuration.
func NodePrivateFromRaw(b [Size]byte) NodePrivate { return NodePrivate{b} }

// ParseNodePrivate reads the form "privkey:" and 64 hex digits.
func ParseNodePrivate(s string) (NodePrivate, error) {
	k, err := parseText(s, privatePrefix)
	return NodePrivate{k}, err
}

// IsZero reports whether k is the zero key.
func (k NodePrivate) IsZero() bool { return k == NodePrivate{} }

// Public returns the public key.
func (k NodePrivate) Public() NodePublic { return NodePublic(public(&k.k)) }

// Raw returns the 32 bytes of the key, for cryptographic libraries.
func (k NodePrivate) Raw() [Size]byte { return k.k }

// Shared derives the key of the NaCl boxes between k and peer. It refuses keys that peer.Check
// refuses.
func (k NodePrivate) Shared(peer NodePublic) (*Shared, error) {
	return newShared(&k.k, (*[Size]byte)(&peer))
}

// Format implements fmt.Formatter. No verb reveals the key.
func (k NodePrivate) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer. It does not reveal the key.
func (k NodePrivate) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler. It reveals the key, for the file that stores it.
func (k NodePrivate) MarshalText() ([]byte, error) { return appendText(nil, privatePrefix, &k.k), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *NodePrivate) UnmarshalText(b []byte) (err error) {
	*k, err = ParseNodePrivate(string(b))
	return err
}
