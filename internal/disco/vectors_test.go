package disco

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"ginnel/internal/key"
)

// vectorInputs is the union of the inputs that the vectors of testdata/disco.json use.
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
	Challenge          string
	Generation         uint32
	RemoteKey          string `json:"remote_key"`
	VNI                uint32
	AddrPorts          []netip.AddrPort `json:"addr_ports"`
	BindLifetime       time.Duration    `json:"bind_lifetime_ns"`
	SteadyLifetime     time.Duration    `json:"steady_state_lifetime_ns"`
	ClientDisco        []string         `json:"client_disco"`
	ServerDisco        string           `json:"server_disco"`
	LamportID          uint64           `json:"lamport_id"`
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

// message builds the message that a vector's inputs describe.
func (v *vector) message(t *testing.T) Message {
	in := &v.Inputs
	txid := func() (id TxID) { copy(id[:], unhex(t, in.TxID)); return id }
	endpoint := func() RelayEndpoint {
		return RelayEndpoint{
			Server:    discoKey(t, in.ServerDisco),
			Clients:   [2]key.DiscoPublic{discoKey(t, in.ClientDisco[0]), discoKey(t, in.ClientDisco[1])},
			LamportID: in.LamportID, VNI: in.VNI,
			BindLifetime: in.BindLifetime, SteadyStateLifetime: in.SteadyLifetime,
			Addrs: in.AddrPorts,
		}
	}
	switch v.ParsedType {
	case "Ping":
		m := &Ping{TxID: txid(), Padding: in.Padding}
		copy(m.NodeKey[:], unhex(t, in.NodeKey))
		return m
	case "Pong":
		return &Pong{TxID: txid(), Src: in.Src}
	case "CallMeMaybe":
		return &CallMeMaybe{Endpoints: in.Endpoints}
	case "BindUDPRelayEndpoint", "BindUDPRelayEndpointChallenge", "BindUDPRelayEndpointAnswer":
		step := map[string]Kind{"BindUDPRelayEndpoint": KindBind, "BindUDPRelayEndpointChallenge": KindBindChallenge,
			"BindUDPRelayEndpointAnswer": KindBindAnswer}[v.ParsedType]
		return &Bind{Step: step, VNI: in.VNI, Generation: in.Generation, Remote: discoKey(t, in.RemoteKey),
			Challenge: [32]byte(unhex(t, in.Challenge))}
	case "CallMeMaybeVia":
		return &CallMeMaybeVia{endpoint()}
	case "AllocateUDPRelayEndpointRequest":
		return &AllocateRequest{Generation: in.Generation,
			Clients: [2]key.DiscoPublic{discoKey(t, in.ClientDisco[0]), discoKey(t, in.ClientDisco[1])}}
	case "AllocateUDPRelayEndpointResponse":
		return &AllocateResponse{in.Generation, endpoint()}
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
		// The key itself is hidden; a box made by one side must open on the other.
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
				t.Fatal("not taken for disco")
			}
			if got, want := Sender(packet), discoKey(t, f.Keys[v.Inputs.From].DiscoPublic); got != want {
				t.Errorf("Sender = %v, want %v", got, want)
			}
			shared := f.shared(t, v.Inputs.To, v.Inputs.From)
			m, err := Open(shared, packet)
			if err != nil {
				t.Fatal(err)
			}
			v.checkParsed(t, m)

			if v.Inputs.Version != 0 || v.Inputs.Trailing != "" || v.Inputs.BodyLen != 0 {
				return // written by others only
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

// normal makes an empty list of endpoints and a missing one equal.
func normal(m Message) Message {
	if m, ok := m.(*CallMeMaybe); ok && len(m.Endpoints) == 0 {
		return &CallMeMaybe{}
	}
	return m
}

func (v *vector) checkParsed(t *testing.T, m Message) {
	if v.Parsed == nil {
		return // the comparison with the inputs covers it
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

// verdict runs a datagram through the acceptance rules of section 2.1 that this package decides.
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
	_, err := Open(f.shared(t, v.Inputs.Receiver, v.Inputs.KnownSenders[i]), packet)
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
