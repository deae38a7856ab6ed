package interop

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	tsdisco "tailscale.com/disco"
	tskey "tailscale.com/types/key"

	"ginnel/internal/disco"
	"ginnel/key"
)

// discoPair is a disco key of ours and one of theirs, and their shared secret on each side.
type discoPair struct {
	ours        key.DiscoPublic
	shared      *key.Shared
	theirs      tskey.DiscoPublic
	theirShared tskey.DiscoShared
}

func newDiscoPair(t *testing.T) discoPair {
	t.Helper()
	our, their := key.NewDiscoPrivate(), tskey.NewDisco()
	shared, err := our.Shared(ourDisco(their.Public()))
	if err != nil {
		t.Fatal(err)
	}
	return discoPair{our.Public(), shared, their.Public(), their.Shared(theirDisco(our.Public()))}
}

// fromTheirs returns a packet with plaintext, sealed by their side.
func (d discoPair) fromTheirs(plaintext []byte) []byte {
	b := append([]byte(tsdisco.Magic), d.theirs.AppendTo(nil)...)
	return append(b, d.theirShared.Seal(plaintext)...)
}

// toTheirs returns the plaintext of our packet, opened by their side.
func (d discoPair) toTheirs(t *testing.T, packet []byte) []byte {
	t.Helper()
	source, ok := tsdisco.Source(packet)
	if !ok || !tsdisco.LooksLikeDiscoWrapper(packet) || !bytes.Equal(source, d.ours[:]) {
		t.Fatalf("they do not recognize our disco packet: %x", packet)
	}
	plaintext, ok := d.theirShared.Open(packet[len(tsdisco.Magic)+key.Size:])
	if !ok {
		t.Fatalf("they cannot open %x", packet)
	}
	return plaintext
}

// TestDisco proves that our codec accepts, rejects and encodes the same messages as theirs.
// Thousands of plaintexts of all types, truncated, extended and random, go through both codecs. Of
// the messages of peer relays, whose bodies we do not parse, we accept at least those that they do.
func TestDisco(t *testing.T) {
	d := newDiscoPair(t)
	r := rand.New(rand.NewPCG(3, 4))
	parsed := make(map[byte]int)
	for range 50_000 {
		p := randomPlaintext(r)
		packet := d.fromTheirs(p)
		if !disco.Is(packet) || disco.Sender(packet) != ourDisco(d.theirs) {
			t.Fatalf("we do not recognize their disco packet: %x", packet)
		}
		our, err := disco.Open(d.shared, packet)
		their, theirErr := tsdisco.Parse(p)
		_, isPeerRelay := our.(*disco.PeerRelay)
		if (err == nil) != (theirErr == nil) && !(isPeerRelay && theirErr != nil) {
			t.Fatalf("plaintext %x: our error is %v, theirs %v", p, err, theirErr)
		}
		if err != nil || theirErr != nil {
			continue
		}
		parsed[p[0]]++
		if isPeerRelay {
			continue
		}
		got, want := d.toTheirs(t, disco.Seal(nil, d.ours, d.shared, our)), their.AppendMarshal(nil)
		if !bytes.Equal(got, want) {
			t.Fatalf("plaintext %x:\nwe read   %+v\nand write %x\nthey read %+v\nand write %x", p, our, got, their, want)
		}
		if got, want := ourAddrs(our), theirAddrs(their); !slices.Equal(got, want) {
			t.Fatalf("plaintext %x: we read the addresses %v, they read %v", p, got, want)
		}
	}
	for typ := byte(1); typ <= 9; typ++ {
		if parsed[typ] < 100 {
			t.Errorf("only %d messages of type %d were valid, so the test proves little", parsed[typ], typ)
		}
	}
}

// ourAddrs returns the addresses in a message that our codec decoded.
func ourAddrs(m disco.Message) []netip.AddrPort {
	switch m := m.(type) {
	case *disco.Pong:
		return []netip.AddrPort{m.Src}
	case *disco.CallMeMaybe:
		return m.Endpoints
	}
	return nil
}

func theirAddrs(m tsdisco.Message) []netip.AddrPort {
	switch m := m.(type) {
	case *tsdisco.Pong:
		return []netip.AddrPort{m.Src}
	case *tsdisco.CallMeMaybe:
		return m.MyNumber
	}
	return nil
}

// randomPlaintext returns random bytes with a message type and a length near one that is valid for
// it.
func randomPlaintext(r *rand.Rand) []byte {
	fixed := []int{0, 12 + 32, 12 + 18, 3 * 18, 72, 72, 72, 124 + 2*18, 68, 4 + 124 + 2*18}
	typ := r.IntN(len(fixed) + 1) // one more than there are types
	n := 0
	if typ < len(fixed) {
		n = fixed[typ]
	}
	switch r.IntN(4) {
	case 0:
		n += r.IntN(40)
	case 1:
		n = max(0, n-r.IntN(40))
	case 2:
		n += 18 * (r.IntN(4) - 1)
	}
	p := make([]byte, 2+max(0, n))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	p[0] = byte(typ)
	p[1] = byte(max(0, r.IntN(12)-10)) // the version, mostly 0
	// Half of the addresses are IPv4.
	if at := map[byte]int{2: 2 + 12, 3: 2}[p[0]]; r.IntN(2) == 0 && at > 0 && len(p) >= at+18 {
		copy(p[at:], "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff")
	}
	return p[:max(0, len(p)-r.IntN(2)*r.IntN(2)*r.IntN(3))]
}
