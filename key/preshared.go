package key

import (
	"fmt"
	"io"
	"log/slog"
)

// Preshared is the optional symmetric key of a WireGuard handshake. The zero value means no key:
// WireGuard itself uses zeros then.
type Preshared struct{ k [Size]byte }

const redactedPreshared = "(preshared key)"

// IsZero reports whether k is the zero key.
func (k Preshared) IsZero() bool { return k == Preshared{} }

// PresharedFromRaw returns the key with these bytes.
func PresharedFromRaw(b [Size]byte) Preshared { return Preshared{b} }

// Raw returns the 32 bytes of the key, for cryptographic libraries.
func (k Preshared) Raw() [Size]byte { return k.k }

// String implements fmt.Stringer. It does not reveal the key.
func (k Preshared) String() string { return redactedPreshared }

// Format implements fmt.Formatter. No verb reveals the key.
func (k Preshared) Format(f fmt.State, _ rune) { io.WriteString(f, redactedPreshared) }

// LogValue implements slog.LogValuer. It does not reveal the key.
func (k Preshared) LogValue() slog.Value { return slog.StringValue(redactedPreshared) }
