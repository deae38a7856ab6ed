package disco

import (
	"bytes"
	"net/netip"
	"testing"

	"ginnel/key"
)

// A message of the vectors, truncated to any length, is either an error or parses as a message that
// is not longer.
func TestTruncation(t *testing.T) {
	for _, v := range loadVectors(t).Messages {
		plain := unhex(t, v.PlaintextHex)
		for n := range plain {
			if m, err := parse(plain[:n]); err == nil && len(appendMessage(nil, m)) > n {
				t.Errorf("%s cut to %d bytes parses as %+v", v.Name, n, m)
			}
		}
	}
}

// "The header is not authenticated as such: changing the sender key changes k and so makes the box
// fail."
func TestTamper(t *testing.T) {
	a, b := key.NewDiscoPrivate(), key.NewDiscoPrivate()
	toB, err := a.Shared(b.Public())
	if err != nil {
		t.Fatal(err)
	}
	packet := Seal(nil, a.Public(), toB, &Ping{TxID: TxID{1, 2, 3}})
	for i := range packet {
		bad := bytes.Clone(packet)
		bad[i] ^= 1
		if i < len(magic) {
			if Is(bad) {
				t.Errorf("a packet with byte %d of the magic changed is taken for disco", i)
			}
			continue
		}
		fromA, err := b.Shared(Sender(bad))
		if err != nil {
			continue
		}
		if m, err := Open(fromA, bad); err == nil {
			t.Errorf("packet with byte %d changed opened as %+v", i, m)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range loadVectors(f).Messages {
		f.Add(unhex(f, v.PlaintextHex))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := parse(p)
		if err != nil {
			return
		}
		// Encoding and parsing again changes nothing.
		once := appendMessage(nil, m)
		again, err := parse(once)
		if err != nil {
			t.Fatalf("%+v, written as %x, does not parse: %v", m, once, err)
		}
		if twice := appendMessage(nil, again); !bytes.Equal(once, twice) {
			t.Fatalf("written as %x, then as %x", once, twice)
		}
	})
}

func FuzzOpen(f *testing.F) {
	vectors := loadVectors(f)
	shared := vectors.shared(f, "bob", "alice")
	for _, v := range append(vectors.Messages, vectors.Malformed...) {
		f.Add(unhex(f, v.Hex))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if Is(p) {
			Sender(p)
			Open(shared, p)
		}
	})
}

func BenchmarkOpenPing(b *testing.B) {
	alice, bob := key.NewDiscoPrivate(), key.NewDiscoPrivate()
	shared, err := alice.Shared(bob.Public())
	if err != nil {
		b.Fatal(err)
	}
	packet := Seal(nil, alice.Public(), shared, &Ping{NodeKey: key.NewNodePrivate().Public()})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Open(shared, packet); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSealPong(b *testing.B) {
	alice, bob := key.NewDiscoPrivate(), key.NewDiscoPrivate()
	shared, err := alice.Shared(bob.Public())
	if err != nil {
		b.Fatal(err)
	}
	pong := &Pong{Src: netip.MustParseAddrPort("203.0.113.7:41641")}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = Seal(buf[:0], alice.Public(), shared, pong)
	}
}
