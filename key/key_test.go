package key

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestTextRoundTrip(t *testing.T) {
	priv := NewNodePrivate()
	text, err := priv.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseNodePrivate(string(text))
	if err != nil || back != priv {
		t.Fatalf("private key does not survive its text form: %v", err)
	}

	pub := priv.Public()
	if got, err := ParseNodePublic(strings.Replace(strings.ToUpper(pub.String()), "NODEKEY", "nodekey", 1)); err != nil ||
		got != pub {
		t.Errorf("upper-case digits: got %v, %v, want %v", got, err, pub)
	}

	machine := NewMachinePrivate()
	if text, err = machine.MarshalText(); err != nil {
		t.Fatal(err)
	}
	if back, err := ParseMachinePrivate(string(text)); err != nil || back != machine {
		t.Errorf("private machine key does not survive its text form: %v", err)
	}
	if back, err := ParseMachinePublic(machine.Public().String()); err != nil || back != machine.Public() {
		t.Errorf("public machine key does not survive its text form: %v", err)
	}

	disco := NewDiscoPrivate().Public()
	b, err := json.Marshal(disco)
	if err != nil {
		t.Fatal(err)
	}
	var got DiscoPublic
	if err := json.Unmarshal(b, &got); err != nil || got != disco {
		t.Errorf("disco key through JSON: got %v, %v, want %v", got, err, disco)
	}
}

func TestParseRefuses(t *testing.T) {
	good := NewNodePrivate().Public().String()
	for _, s := range []string{"", "nodekey:", "mkey:" + good[8:], good[:len(good)-1], good + "0", " " + good,
		"discokey:" + good[8:],
		good[:len(good)-1] + "g"} {
		if _, err := ParseNodePublic(s); err == nil {
			t.Errorf("ParseNodePublic(%q) succeeded", s)
		}
	}
}

// No way of printing a private key reveals it.
func TestPrivateKeysPrintNothing(t *testing.T) {
	node, disco, machine := NewNodePrivate(), NewDiscoPrivate(), NewMachinePrivate()
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%T %v"} {
		fmt.Fprintf(&out, verb+"\n", node)
		fmt.Fprintf(&out, verb+"\n", &node)
		fmt.Fprintf(&out, verb+"\n", disco)
		fmt.Fprintf(&out, verb+"\n", machine)
		fmt.Fprintf(&out, verb+"\n", struct{ K any }{node})
	}
	log := slog.New(slog.NewTextHandler(&out, nil))
	log.Info("keys", "node", node, "disco", disco, "machine", machine)

	for _, k := range [][Size]byte{node.k, disco.k, machine.k} {
		for _, leak := range []string{fmt.Sprintf("%x", k[:8]), fmt.Sprintf("%X", k[:8]),
			strings.Trim(fmt.Sprint(k[:8]), "[]")} {
			if strings.Contains(out.String(), leak) {
				t.Errorf("printed output contains key material %q", leak)
			}
		}
	}
}

func TestShared(t *testing.T) {
	a, b := NewNodePrivate(), NewNodePrivate()
	ab, err := a.Shared(b.Public())
	if err != nil {
		t.Fatal(err)
	}
	ba, err := b.Shared(a.Public())
	if err != nil {
		t.Fatal(err)
	}
	sealed := ab.Seal([]byte("head"), []byte("hello"))[4:]
	if got, ok := ba.Open(nil, sealed); !ok || !bytes.Equal(got, []byte("hello")) {
		t.Fatalf("Open = %q, %v", got, ok)
	}
	for i := range sealed {
		if _, ok := ba.Open(nil, sealed[:i]); ok {
			t.Errorf("box cut to %d bytes opened", i)
		}
		sealed[i] ^= 0x10
		if _, ok := ba.Open(nil, sealed); ok {
			t.Errorf("box with byte %d changed opened", i)
		}
		sealed[i] ^= 0x10
	}
	if _, err := a.Shared(NodePublic{}); err == nil {
		t.Error("the zero key was accepted as a peer")
	}
}
