package derp

import (
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"ginnel/key"
)

// This file encodes and decodes the sealed boxes of the login, in ClientInfo and ServerInfo frames
// (2.4, 2.5).

// MeshKey is the secret that the servers of one region share (5.1). The zero value means that there
// is no mesh.
type MeshKey [32]byte

// ParseMeshKey reads 64 hex digits and ignores white space around them.
func ParseMeshKey(s string) (k MeshKey, err error) {
	s = strings.TrimSpace(s)
	if len(s) != hex.EncodedLen(len(k)) {
		return k, fmt.Errorf("mesh key has %d characters, want %d hex digits", len(s), hex.EncodedLen(len(k)))
	}
	if _, err := hex.Decode(k[:], []byte(s)); err != nil {
		return MeshKey{}, errors.New("mesh key is not hexadecimal") // hex's own error would quote the secret
	}
	return k, nil
}

// IsZero reports whether there is no mesh key.
func (k MeshKey) IsZero() bool { return k == MeshKey{} }

// Format implements fmt.Formatter. No verb reveals the key.
func (k MeshKey) Format(f fmt.State, _ rune) { io.WriteString(f, "(mesh key)") }

// LogValue implements slog.LogValuer. It reveals nothing.
func (k MeshKey) LogValue() slog.Value { return slog.StringValue("(mesh key)") }

// Equal compares in constant time. The zero key equals no key, not even itself.
func (k MeshKey) Equal(o MeshKey) bool {
	return !k.IsZero() && subtle.ConstantTimeCompare(k[:], o[:]) == 1
}

// SealedMeshKey is the meshKey member of ClientInfo. It is left out if there is no key. If it is
// present, it must be a key: null and the empty string are errors (2.4).
type SealedMeshKey struct{ MeshKey }

// MarshalJSON implements json.Marshaler.
func (k SealedMeshKey) MarshalJSON() ([]byte, error) {
	return json.Marshal(hex.EncodeToString(k.MeshKey[:]))
}

// UnmarshalJSON implements json.Unmarshaler.
func (k *SealedMeshKey) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return errors.New("mesh key is not a string")
	}
	if strings.TrimSpace(s) != s {
		return errors.New("mesh key is surrounded by white space")
	}
	var err error
	k.MeshKey, err = ParseMeshKey(s)
	return err
}

// ClientInfo is the JSON by which a client introduces itself (2.4).
type ClientInfo struct {
	MeshKey     SealedMeshKey `json:"meshKey,omitzero"`
	Version     int           `json:"version,omitempty"`
	CanAckPings bool          `json:"CanAckPings"`
	IsProber    bool          `json:"IsProber,omitempty"`
	AppName     string        `json:"AppName,omitempty"`
}

// ServerInfo is the JSON by which a server admits a client (2.5).
type ServerInfo struct {
	Version                   int `json:"version,omitempty"`
	TokenBucketBytesPerSecond int `json:"TokenBucketBytesPerSecond,omitempty"`
	TokenBucketBytesBurst     int `json:"TokenBucketBytesBurst,omitempty"`
}

// errBox reports a box that does not open. It was damaged, or sealed with or for another key.
var errBox = errors.New("opening the box: not sealed by this peer for this key")

// AppendClientInfo appends a ClientInfo frame, sealed with the secret that the client shares with
// the server.
func AppendClientInfo(b []byte, client key.NodePublic, shared *key.Shared, info ClientInfo) []byte {
	plain := marshal(info)
	b = AppendHeader(b, FrameClientInfo, key.Size+key.Overhead+len(plain))
	b = append(b, client[:]...)
	return shared.Seal(b, plain)
}

// OpenClientInfo reads the payload of a ClientInfo frame. If the box opens, the peer holds the
// private half of the key that it claims (2.3).
func OpenClientInfo(server key.NodePrivate, p []byte) (
	client key.NodePublic, shared *key.Shared, info ClientInfo, err error,
) {
	if len(p) < key.Size+key.NonceSize || len(p) > MaxClientInfo {
		return client, nil, info, &FrameError{FrameClientInfo, uint32(len(p)), "wrong length"}
	}
	client = key.NodePublic(p[:key.Size])
	if shared, err = server.Shared(client); err != nil {
		return client, nil, info, fmt.Errorf("checking the client key: %w", err)
	}
	info, err = openJSON[ClientInfo](shared, p[key.Size:])
	return client, shared, info, err
}

// AppendServerInfo appends a ServerInfo frame.
func AppendServerInfo(b []byte, shared *key.Shared, info ServerInfo) []byte {
	plain := marshal(info)
	b = AppendHeader(b, FrameServerInfo, key.Overhead+len(plain))
	return shared.Seal(b, plain)
}

// OpenServerInfo reads the payload of a ServerInfo frame.
func OpenServerInfo(shared *key.Shared, p []byte) (ServerInfo, error) {
	return openJSON[ServerInfo](shared, p)
}

func openJSON[T ClientInfo | ServerInfo](shared *key.Shared, sealed []byte) (info T, err error) {
	plain, ok := shared.Open(nil, sealed)
	if !ok {
		return info, errBox
	}
	if err := json.Unmarshal(plain, &info); err != nil {
		return info, fmt.Errorf("reading the JSON in the box: %w", err)
	}
	return info, nil
}

// marshal encodes info, which cannot fail.
func marshal[T ClientInfo | ServerInfo](info T) []byte {
	b, err := json.Marshal(info)
	if err != nil {
		panic("relay: internal error: " + err.Error())
	}
	return b
}
