package configs

import (
	"fmt"
	"io"
	"log/slog"

	"ginnel/internal/key"
)

// PresharedKey is the symmetric key that a WireGuard peer may add to the handshake. The zero value is no key: to
// WireGuard, both are the same.
type PresharedKey struct{ k [key.Size]byte }

const redacted = "(preshared key)"

// IsZero reports whether no key is held.
func (k PresharedKey) IsZero() bool { return k == PresharedKey{} }

// Raw returns the 32 bytes for a library that takes them.
func (k PresharedKey) Raw() [key.Size]byte { return k.k }

// String reveals nothing.
func (k PresharedKey) String() string { return redacted }

// Format implements fmt.Formatter so that no verb reveals the key.
func (k PresharedKey) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer and reveals nothing.
func (k PresharedKey) LogValue() slog.Value { return slog.StringValue(redacted) }
