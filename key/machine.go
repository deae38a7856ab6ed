package key

import (
	"fmt"
	"io"
	"log/slog"
)

const machinePublicPrefix = "mkey:"

// MachinePublic is the static public key of a machine, or of a coordination server, in the Noise
// handshake between the two.
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

// LogValue implements slog.LogValuer: "m:" and the first eight hex digits.
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

// NewMachinePrivate generates a key.
func NewMachinePrivate() MachinePrivate { return MachinePrivate{generate()} }

// ParseMachinePrivate reads the form "privkey:" and 64 hex digits.
func ParseMachinePrivate(s string) (MachinePrivate, error) {
	k, err := parseText(s, privatePrefix)
	return MachinePrivate{k}, err
}

// IsZero reports whether k is the zero key.
func (k MachinePrivate) IsZero() bool { return k == MachinePrivate{} }

// Public returns the public key.
func (k MachinePrivate) Public() MachinePublic { return MachinePublic(public(&k.k)) }

// Raw returns the 32 bytes of the key, for cryptographic libraries.
func (k MachinePrivate) Raw() [Size]byte { return k.k }

// Format implements fmt.Formatter. No verb reveals the key.
func (k MachinePrivate) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer. It does not reveal the key.
func (k MachinePrivate) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler. It reveals the key, for the file that stores it.
func (k MachinePrivate) MarshalText() ([]byte, error) {
	return appendText(nil, privatePrefix, &k.k), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *MachinePrivate) UnmarshalText(b []byte) (err error) {
	*k, err = ParseMachinePrivate(string(b))
	return err
}
