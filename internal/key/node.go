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

// NodePublic names a node: its WireGuard static public key, which is also its address on DERP
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

// ShortString returns the first five base64 digits in brackets, the form WireGuard's logs use.
// Display only.
func (k NodePublic) ShortString() string {
	return "[" + base64.StdEncoding.EncodeToString(k[:])[:5] + "]"
}

// LogValue logs the short form.
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

// NodePrivate is the private half of a node's identity: the WireGuard static private key. A DERP
// server's key has the same form.
type NodePrivate struct{ k [Size]byte }

// NewNodePrivate makes a fresh key.
func NewNodePrivate() NodePrivate { return NodePrivate{generate()} }

// NodePrivateFromRaw takes over 32 bytes that another program made, as a WireGuard configuration
// holds them.
func NodePrivateFromRaw(b [Size]byte) NodePrivate { return NodePrivate{b} }

// ParseNodePrivate reads the form "privkey:" and 64 hex digits.
func ParseNodePrivate(s string) (NodePrivate, error) {
	k, err := parseText(s, privatePrefix)
	return NodePrivate{k}, err
}

// IsZero reports whether no key is held.
func (k NodePrivate) IsZero() bool { return k == NodePrivate{} }

// Public returns the key that others know the node by.
func (k NodePrivate) Public() NodePublic { return NodePublic(public(&k.k)) }

// Raw returns the 32 bytes for a library that takes them.
func (k NodePrivate) Raw() [Size]byte { return k.k }

// Shared derives the key of the NaCl boxes between k and peer. A zero peer is refused.
func (k NodePrivate) Shared(peer NodePublic) (*Shared, error) {
	return newShared(&k.k, (*[Size]byte)(&peer))
}

// Format implements fmt.Formatter so that no verb reveals the key.
func (k NodePrivate) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer and reveals nothing.
func (k NodePrivate) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns the secret in its file form; see the package comment.
func (k NodePrivate) MarshalText() ([]byte, error) { return appendText(nil, privatePrefix, &k.k), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *NodePrivate) UnmarshalText(b []byte) (err error) {
	*k, err = ParseNodePrivate(string(b))
	return err
}
