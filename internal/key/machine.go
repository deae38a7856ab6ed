package key

import (
	"fmt"
	"io"
	"log/slog"
)

const machinePublicPrefix = "mkey:"

// MachinePublic names a device, or a coordination server, to the other in the Noise channel between
// them.
type MachinePublic [Size]byte

// ParseMachinePublic reads the form "mkey:" and 64 hex digits.
func ParseMachinePublic(s string) (MachinePublic, error) {
	k, err := parseText(s, machinePublicPrefix)
	return MachinePublic(k), err
}

// IsZero reports whether k is the zero key, which no machine can have.
func (k MachinePublic) IsZero() bool { return k == MachinePublic{} }

// String returns "mkey:" and 64 lower-case hex digits.
func (k MachinePublic) String() string {
	return string(appendText(nil, machinePublicPrefix, (*[Size]byte)(&k)))
}

// LogValue logs the first eight hex digits.
func (k MachinePublic) LogValue() slog.Value { return slog.StringValue(fmt.Sprintf("m:%x", k[:4])) }

// AppendText implements encoding.TextAppender.
func (k MachinePublic) AppendText(b []byte) ([]byte, error) {
	return appendText(b, machinePublicPrefix, (*[Size]byte)(&k)), nil
}

// MarshalText implements encoding.TextMarshaler.
func (k MachinePublic) MarshalText() ([]byte, error) { return k.AppendText(nil) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *MachinePublic) UnmarshalText(b []byte) (err error) {
	*k, err = ParseMachinePublic(string(b))
	return err
}

// MachinePrivate is the private half of a machine's identity. It never expires.
type MachinePrivate struct{ k [Size]byte }

// NewMachinePrivate makes a fresh key.
func NewMachinePrivate() MachinePrivate { return MachinePrivate{generate()} }

// MachinePrivateFromRaw takes over 32 bytes, as test vectors give them.
func MachinePrivateFromRaw(b [Size]byte) MachinePrivate { return MachinePrivate{b} }

// ParseMachinePrivate reads the form "privkey:" and 64 hex digits.
func ParseMachinePrivate(s string) (MachinePrivate, error) {
	k, err := parseText(s, privatePrefix)
	return MachinePrivate{k}, err
}

// IsZero reports whether no key is held.
func (k MachinePrivate) IsZero() bool { return k == MachinePrivate{} }

// Public returns the key that others know the machine by.
func (k MachinePrivate) Public() MachinePublic { return MachinePublic(public(&k.k)) }

// Raw returns the 32 bytes for a library that takes them.
func (k MachinePrivate) Raw() [Size]byte { return k.k }

// Format implements fmt.Formatter so that no verb reveals the key.
func (k MachinePrivate) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer and reveals nothing.
func (k MachinePrivate) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns the secret in its file form; see the package comment.
func (k MachinePrivate) MarshalText() ([]byte, error) {
	return appendText(nil, privatePrefix, &k.k), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *MachinePrivate) UnmarshalText(b []byte) (err error) {
	*k, err = ParseMachinePrivate(string(b))
	return err
}
