package interop

import (
	"encoding"
	"testing"

	tskey "tailscale.com/types/key"

	"ginnel/key"
)

// Keys pass between our types and theirs in text form, so every test with keys also proves that
// both sides encode them alike.

// convert encodes a key as text and decodes it as another type.
func convert(from encoding.TextMarshaler, to encoding.TextUnmarshaler) {
	text, err := from.MarshalText()
	if err == nil {
		err = to.UnmarshalText(text)
	}
	if err != nil {
		panic("converting a key: " + err.Error())
	}
}

func theirPrivate(k key.NodePrivate) (out tskey.NodePrivate) {
	convert(k, &out)
	return out
}

func theirPublic(k key.NodePublic) (out tskey.NodePublic) {
	convert(k, &out)
	return out
}

func theirDisco(k key.DiscoPublic) (out tskey.DiscoPublic) {
	convert(k, &out)
	return out
}

func ourPublic(k tskey.NodePublic) (out key.NodePublic) {
	convert(k, &out)
	return out
}

func ourDisco(k tskey.DiscoPublic) (out key.DiscoPublic) {
	convert(k, &out)
	return out
}

// TestKeys proves that a key has the same public key and the same text on both sides, whichever
// side made it.
func TestKeys(t *testing.T) {
	ours := key.NewNodePrivate()
	if got, want := ourPublic(theirPrivate(ours).Public()), ours.Public(); got != want {
		t.Errorf("public half of our key: %v, want %v", got, want)
	}
	theirs := tskey.NewNode()
	var k key.NodePrivate
	convert(theirs, &k)
	if got, want := theirPublic(k.Public()), theirs.Public(); got != want {
		t.Errorf("public half of their key: %v, want %v", got, want)
	}
	if got, want := ours.Public().String(), theirPublic(ours.Public()).String(); got != want {
		t.Errorf("text of our key: %s, want %s", got, want)
	}
	disco := key.NewDiscoPrivate().Public()
	if got, want := disco.String(), theirDisco(disco).String(); got != want {
		t.Errorf("text of our disco key: %s, want %s", got, want)
	}
}
