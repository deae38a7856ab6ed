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

	"ginnel/internal/key"
)

// This file is the login: what the sealed boxes of ClientInfo and ServerInfo hold (2.4, 2.5).

// MeshKey is the secret that the servers of one region share (5.1). The zero value means that there
// is none.
type MeshKey [32]byte

// ParseMeshKey reads 64 hex digits; white space around them is ignored.
func ParseMeshKey(s string) (k MeshKey, err error) {
	s = strings.TrimSpace(s)
	if len(s) != hex.EncodedLen(len(k)) {
		return k, fmt.Errorf("mesh key has %d characters, want %d hex digits", len(s), hex.EncodedLen(len(k)))
	}
	if _, err := hex.Decode(k[:], []byte(s)); err != nil {
		return MeshKey{}, errors.New("mesh key is not hexadecimal") // without the digits: it is a secret
	}
	return k, nil
}

// IsZero reports whether there is no mesh key.
func (k MeshKey) IsZero() bool { return k == MeshKey{} }

// Format implements fmt.Formatter so that no verb reveals the key.
func (k MeshKey) Format(f fmt.State, _ rune) { io.WriteString(f, "(mesh key)") }

// LogValue implements slog.LogValuer and reveals nothing.
func (k MeshKey) LogValue() slog.Value { return slog.StringValue("(mesh key)") }

// Equal compares in constant time; an absent key equals nothing.
func (k MeshKey) Equal(o MeshKey) bool {
	return !k.IsZero() && subtle.ConstantTimeCompare(k[:], o[:]) == 1
}

// SealedMeshKey is the meshKey member of ClientInfo: left out when there is none, and an error when
// it is there without being a key, null included (2.4).
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

// ClientInfo is the JSON that a client introduces itself with (2.4).
type ClientInfo struct {
	MeshKey     SealedMeshKey `json:"meshKey,omitzero"`
	Version     int           `json:"version,omitempty"`
	CanAckPings bool          `json:"CanAckPings"`
	IsProber    bool          `json:"IsProber,omitempty"`
	AppName     string        `json:"AppName,omitempty"`
}

// ServerInfo is the JSON that a server answers with (2.5).
type ServerInfo struct {
	Version                   int `json:"version,omitempty"`
	TokenBucketBytesPerSecond int `json:"TokenBucketBytesPerSecond,omitempty"`
	TokenBucketBytesBurst     int `json:"TokenBucketBytesBurst,omitempty"`
}

// errBox reports a box that does not open: damaged, or made with or for another key.
var errBox = errors.New("opening the box: not sealed by this peer for this key")

// AppendClientInfo appends the ClientInfo frame of the client that shares shared with the server.
func AppendClientInfo(b []byte, client key.NodePublic, shared *key.Shared, info ClientInfo) []byte {
	plain := MustJSON(info)
	b = AppendHeader(b, FrameClientInfo, key.Size+key.Overhead+len(plain))
	b = append(b, client[:]...)
	return shared.Seal(b, plain)
}

// OpenClientInfo reads the payload of a ClientInfo frame. The box proves that the peer holds the
// private half of the key it claims (2.3).
func OpenClientInfo(server key.NodePrivate, p []byte) (client key.NodePublic, shared *key.Shared, info ClientInfo, err error) {
	if len(p) < key.Size+key.NonceSize || len(p) > MaxClientInfo {
		return client, nil, info, &FrameError{FrameClientInfo, uint32(len(p)), "wrong length"}
	}
	client = key.NodePublic(p[:key.Size])
	if shared, err = server.Shared(client); err != nil {
		return client, nil, info, fmt.Errorf("checking the client key: %w", err)
	}
	err = openJSON(shared, p[key.Size:], &info)
	return client, shared, info, err
}

// AppendServerInfo appends a ServerInfo frame.
func AppendServerInfo(b []byte, shared *key.Shared, info ServerInfo) []byte {
	plain := MustJSON(info)
	b = AppendHeader(b, FrameServerInfo, key.Overhead+len(plain))
	return shared.Seal(b, plain)
}

// OpenServerInfo reads the payload of a ServerInfo frame.
func OpenServerInfo(shared *key.Shared, p []byte) (info ServerInfo, err error) {
	err = openJSON(shared, p, &info)
	return info, err
}

func openJSON(shared *key.Shared, sealed []byte, v any) error {
	plain, ok := shared.Open(nil, sealed)
	if !ok {
		return errBox
	}
	if err := json.Unmarshal(plain, v); err != nil {
		return fmt.Errorf("reading the JSON in the box: %w", err)
	}
	return nil
}

// MustJSON encodes a value of this file, none of which can fail.
func MustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("relay: internal error: " + err.Error())
	}
	return b
}
