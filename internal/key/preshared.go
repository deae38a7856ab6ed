package key

import (
	"fmt"
	"io"
	"log/slog"
)

// Preshared is the symmetric key that a WireGuard peer may add to the handshake. The zero value is
// no key: to WireGuard, both are the same.
type Preshared struct{ k [Size]byte }

const redactedPreshared = "(preshared key)"

// IsZero reports whether no key is held.
func (k Preshared) IsZero() bool { return k == Preshared{} }

// PresharedFromRaw takes over 32 bytes that another program made.
func PresharedFromRaw(b [Size]byte) Preshared { return Preshared{b} }

// Raw returns the 32 bytes for a library that takes them.
func (k Preshared) Raw() [Size]byte { return k.k }

// String reveals nothing.
func (k Preshared) String() string { return redactedPreshared }

// Format implements fmt.Formatter so that no verb reveals the key.
func (k Preshared) Format(f fmt.State, _ rune) { io.WriteString(f, redactedPreshared) }

// LogValue implements slog.LogValuer and reveals nothing.
func (k Preshared) LogValue() slog.Value { return slog.StringValue(redactedPreshared) }
