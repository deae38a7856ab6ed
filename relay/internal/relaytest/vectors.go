package relaytest

import (
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"testing"

	"ginnel/key"
)

//go:embed testdata/derp.json
var vectorsJSON []byte

// VectorFile is testdata/derp.json: bytes that the reference implementation makes or accepts.
type VectorFile struct {
	Keys      map[string]string
	Vectors   []Vector
	Malformed []Vector
	Text      []Vector
	STUN      []Vector
}

// Vector is one message: what it was made from, and its bytes in hex.
type Vector struct {
	Name   string
	Inputs map[string]any
	Hex    string
	Expect string
}

// LoadVectors returns the vectors.
func LoadVectors(tb testing.TB) *VectorFile {
	tb.Helper()
	f := new(VectorFile)
	if err := json.Unmarshal(vectorsJSON, f); err != nil {
		tb.Fatal(err)
	}
	return f
}

// Find returns the bytes of the named vector of any section.
func (f *VectorFile) Find(tb testing.TB, name string) []byte {
	tb.Helper()
	for _, list := range [][]Vector{f.Vectors, f.Malformed, f.Text, f.STUN} {
		for _, v := range list {
			if v.Name == name {
				return v.Bytes(tb)
			}
		}
	}
	tb.Fatalf("no vector %q", name)
	return nil
}

// Public returns the public key with that name: client, server or peer.
func (f *VectorFile) Public(tb testing.TB, name string) key.NodePublic {
	return key.NodePublic(unhex(tb, f.Keys[name+"_public_hex"]))
}

// Private returns the private key with that name.
func (f *VectorFile) Private(tb testing.TB, name string) key.NodePrivate {
	return key.NodePrivateFromRaw([32]byte(unhex(tb, f.Keys[name+"_private_hex"])))
}

// Bytes returns the message.
func (v *Vector) Bytes(tb testing.TB) []byte { return unhex(tb, v.Hex) }

// Input returns an input that is given in hex.
func (v *Vector) Input(tb testing.TB, name string) []byte {
	tb.Helper()
	s, ok := v.Inputs[name].(string)
	if !ok {
		tb.Fatalf("vector %s: no input %q", v.Name, name)
	}
	return unhex(tb, s)
}

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// Shared returns the secret that client and server of the vectors share.
func (f *VectorFile) Shared(tb testing.TB) *key.Shared {
	tb.Helper()
	s, err := f.Private(tb, "client").Shared(f.Public(tb, "server"))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}
