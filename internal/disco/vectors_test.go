package disco

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"testing"

	"ginnel/key"
)

// vectorInputs is the union of the inputs of all vectors in testdata/disco.json, except those of
// peer relays.
type vectorInputs struct {
	From, To, Receiver string
	Nonce              string
	KnownSenders       []string `json:"known_senders"`
	TxID               string
	NodeKey            string `json:"node_key"`
	Padding            int
	Src                netip.AddrPort
	Endpoints          []netip.AddrPort
	Version            byte
	Trailing           string
	BodyLen            int `json:"body_len"`
}

type vector struct {
	Name         string
	Inputs       vectorInputs
	Hex          string
	PlaintextHex string `json:"plaintext_hex"`
	ParsedType   string `json:"parsed_type"`
	Verdict      string
	Parsed       *struct {
		TxID      string
		NodeKey   string `json:"node_key"`
		Padding   int
		Src       netip.AddrPort
		Endpoints []netip.AddrPort
	}
}

type vectorFile struct {
	Keys map[string]struct {
		DiscoPrivate string `json:"disco_private"`
		DiscoPublic  string `json:"disco_public"`
		PublicText   string `json:"disco_public_text"`
	}
	SharedKeys []struct{ Name, X25519, SharedKey string } `json:"shared_keys"`
	Messages   []vector
	Malformed  []vector
}

func loadVectors(t testing.TB) *vectorFile {
	t.Helper()
	b, err := os.ReadFile("testdata/disco.json")
	if err != nil {
		t.Fatal(err)
	}
	f := new(vectorFile)
	if err := json.Unmarshal(b, f); err != nil {
		t.Fatal(err)
	}
	return f
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (f *vectorFile) private(t testing.TB, name string) key.DiscoPrivate {
	t.Helper()
	return key.DiscoPrivateFromRaw([key.Size]byte(unhex(t, f.Keys[name].DiscoPrivate)))
}

func (f *vectorFile) shared(t testing.TB, a, b string) *key.Shared {
	t.Helper()
	s, err := f.private(t, a).Shared(f.private(t, b).Public())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func discoKey(t testing.TB, s string) key.DiscoPublic {
	t.Helper()
	return key.DiscoPublic(unhex(t, s))
}

// message makes the message that the inputs of a vector describe.
func (v *vector) message(t *testing.T) Message {
	in := &v.Inputs
	txid := func() (id TxID) { copy(id[:], unhex(t, in.TxID)); return id }
	switch v.ParsedType {
	case "Ping":
		m := &Ping{TxID: txid(), Padding: in.Padding}
		copy(m.NodeKey[:], unhex(t, in.NodeKey))
		return m
	case "Pong":
		return &Pong{TxID: txid(), Src: in.Src}
	case "CallMeMaybe":
		return &CallMeMaybe{Endpoints: in.Endpoints}
	}
	t.Fatalf("unknown message type %q in the vectors", v.ParsedType)
	return nil
}

func TestVectorKeys(t *testing.T) {
	f := loadVectors(t)
	for name, k := range f.Keys {
		pub := f.private(t, name).Public()
		if pub != discoKey(t, k.DiscoPublic) || pub.String() != k.PublicText {
			t.Errorf("%s: public key is %v, want %s", name, pub, k.PublicText)
		}
	}
	nonce := new([key.NonceSize]byte)
	for i, pair := range [][2]string{{"alice", "bob"}, {"alice", "carol"}, {"bob", "carol"}} {
		// key.Shared does not reveal the key. A box that one side seals must open on the other.
		sealed := f.shared(t, pair[0], pair[1]).SealWithNonce(nil, nonce, []byte("x"))
		if _, ok := f.shared(t, pair[1], pair[0]).Open(nil, sealed); !ok {
			t.Errorf("%s: keys of the two sides differ", f.SharedKeys[i].Name)
		}
	}
}

func TestVectorMessages(t *testing.T) {
	f := loadVectors(t)
	if len(f.Messages) < 23 {
		t.Fatalf("only %d message vectors", len(f.Messages))
	}
	for _, v := range f.Messages {
		t.Run(v.Name, func(t *testing.T) {
			packet := unhex(t, v.Hex)
			if !Is(packet) {
				t.Fatal("not recognized as disco")
			}
			if got, want := Sender(packet), discoKey(t, f.Keys[v.Inputs.From].DiscoPublic); got != want {
				t.Errorf("Sender = %v, want %v", got, want)
			}
			shared := f.shared(t, v.Inputs.To, v.Inputs.From)
			m, err := Open(shared, packet)
			if err != nil {
				t.Fatal(err)
			}
			if relay, ok := m.(*PeerRelay); ok {
				if want := peerRelayKinds[v.ParsedType]; relay.k != want {
					t.Errorf("parsed as kind %d, want %d", relay.k, want)
				}
				return
			}
			v.checkParsed(t, m)

			if v.Inputs.Version != 0 || v.Inputs.Trailing != "" || v.Inputs.BodyLen != 0 {
				return // no version of ours sends such a message
			}
			plain := appendMessage(nil, v.message(t))
			if got := hex.EncodeToString(plain); got != v.PlaintextHex {
				t.Errorf("plaintext\n got %s\nwant %s", got, v.PlaintextHex)
			}
			if !reflect.DeepEqual(normal(m), normal(v.message(t))) {
				t.Errorf("parsed %+v, want %+v", m, v.message(t))
			}
			sender := discoKey(t, f.Keys[v.Inputs.From].DiscoPublic)
			nonce := [key.NonceSize]byte(unhex(t, v.Inputs.Nonce))
			sealed := append([]byte(magic), sender[:]...)
			if got := hex.EncodeToString(shared.SealWithNonce(sealed, &nonce, plain)); got != v.Hex {
				t.Errorf("packet\n got %s\nwant %s", got, v.Hex)
			}
		})
	}
}

// peerRelayKinds maps the message types of peer relays to their kinds (section 1.2).
var peerRelayKinds = map[string]kind{
	"BindUDPRelayEndpoint":             4,
	"BindUDPRelayEndpointChallenge":    5,
	"BindUDPRelayEndpointAnswer":       6,
	"CallMeMaybeVia":                   7,
	"AllocateUDPRelayEndpointRequest":  8,
	"AllocateUDPRelayEndpointResponse": 9,
}

// normal makes a CallMeMaybe with an empty list equal to one with a nil list.
func normal(m Message) Message {
	if m, ok := m.(*CallMeMaybe); ok && len(m.Endpoints) == 0 {
		return &CallMeMaybe{}
	}
	return m
}

func (v *vector) checkParsed(t *testing.T, m Message) {
	if v.Parsed == nil {
		return // the comparison with v.message covers it
	}
	switch m := m.(type) {
	case *Ping:
		nodeKey := ""
		if !m.NodeKey.IsZero() {
			nodeKey = hex.EncodeToString(m.NodeKey[:])
		}
		if hex.EncodeToString(m.TxID[:]) != v.Parsed.TxID || nodeKey != v.Parsed.NodeKey || m.Padding != v.Parsed.Padding {
			t.Errorf("parsed %+v, want %+v", m, v.Parsed)
		}
	case *Pong:
		if hex.EncodeToString(m.TxID[:]) != v.Parsed.TxID || m.Src != v.Parsed.Src {
			t.Errorf("parsed %+v, want %+v", m, v.Parsed)
		}
	case *CallMeMaybe:
		if !slices.Equal(m.Endpoints, v.Parsed.Endpoints) {
			t.Errorf("parsed %+v, want %+v", m, v.Parsed)
		}
	default:
		t.Errorf("parsed a %T, want a %s", m, v.ParsedType)
	}
}

// verdict applies the acceptance rules of section 2.1, as far as this package implements them.
func (f *vectorFile) verdict(t *testing.T, v *vector) string {
	packet := unhex(t, v.Hex)
	if !Is(packet) {
		return "not-disco"
	}
	i := slices.IndexFunc(v.Inputs.KnownSenders, func(name string) bool {
		return Sender(packet) == discoKey(t, f.Keys[name].DiscoPublic)
	})
	if i < 0 {
		return "drop-unknown-sender"
	}
	m, err := Open(f.shared(t, v.Inputs.Receiver, v.Inputs.KnownSenders[i]), packet)
	if _, ok := m.(*PeerRelay); ok {
		return "drop-parse-error" // not parsed, and dropped by the receiver
	}
	switch err {
	case nil:
		return "accepted"
	case errBox:
		return "drop-bad-box"
	}
	return "drop-parse-error"
}

func TestVectorMalformed(t *testing.T) {
	f := loadVectors(t)
	if len(f.Malformed) < 25 {
		t.Fatalf("only %d malformed vectors", len(f.Malformed))
	}
	for _, v := range f.Malformed {
		if got := f.verdict(t, &v); got != v.Verdict {
			t.Errorf("%s: got %s, want %s", v.Name, got, v.Verdict)
		}
	}
}
