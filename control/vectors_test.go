package control

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"

	"ginnel/internal/key"
)

// hexBytes is a byte string of the vectors.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

type recordVector struct {
	Counter   uint64   `json:"nonce_counter"`
	Nonce     hexBytes `json:"nonce_hex"`
	Plaintext hexBytes `json:"plaintext_hex"`
	Wire      hexBytes `json:"wire_hex"`
}

type noiseVector struct {
	Version         uint16
	ClientEphemeral hexBytes       `json:"client_ephemeral_private_hex"`
	ServerEphemeral hexBytes       `json:"server_ephemeral_private_hex"`
	Control         hexBytes       `json:"control_private_hex"`
	ControlPublic   hexBytes       `json:"control_public_hex"`
	Machine         hexBytes       `json:"machine_private_hex"`
	MachinePublic   hexBytes       `json:"machine_public_hex"`
	Prologue        hexBytes       `json:"prologue_hex"`
	Initiation      hexBytes       `json:"initiation_hex"`
	Response        hexBytes       `json:"response_hex"`
	Hash            hexBytes       `json:"handshake_hash_hex"`
	ClientToServer  hexBytes       `json:"key_client_to_server_hex"`
	ServerToClient  hexBytes       `json:"key_server_to_client_hex"`
	RecordsToServer []recordVector `json:"records_client_to_server"`
	RecordsToClient []recordVector `json:"records_server_to_client"`
	Steps           []struct {
		Name string
		Hex  hexBytes
	}
	SplitWrite struct {
		FirstCounter uint64     `json:"first_counter"`
		PlaintextLen int        `json:"plaintext_len"`
		Headers      []hexBytes `json:"wire_header_hex"`
		Tails        []hexBytes `json:"wire_last_16_hex"`
		Lens         []int      `json:"wire_lens"`
	} `json:"split_write"`
}

type vectorFile struct {
	Keys []struct {
		Kind        string
		PrivateHex  hexBytes `json:"private_hex"`
		PrivateText string   `json:"private_text"`
		PublicText  string   `json:"public_text"`
	}
	KeyParse []struct {
		Text  string
		Valid bool `json:"valid_node_public"`
	} `json:"key_parse_as_node_public"`
	Noise  noiseVector
	Reject []struct {
		Case       string
		Initiation hexBytes `json:"initiation_hex"`
	} `json:"noise_reject"`
	ErrorFrame struct {
		Text string
		Wire hexBytes `json:"wire_hex"`
	} `json:"noise_error_frame"`
	Upgrade struct {
		Request      string
		ResponseHead string `json:"response_head"`
		Query        string `json:"websocket_query"`
	} `json:"http_upgrade"`
	Frames []struct {
		Compress string
		JSON     string
		Wire     hexBytes `json:"wire_hex"`
	} `json:"map_frames"`
	Documents []struct {
		Name, Type string
		JSON       json.RawMessage
	}
	Deltas struct {
		Steps []struct {
			Name     string
			Response json.RawMessage
			After    json.RawMessage `json:"state_after"`
		}
	} `json:"map_delta_sequence"`
}

func vectors(t testing.TB) *vectorFile {
	t.Helper()
	text, err := os.ReadFile("testdata/control.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectorFile
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return &v
}

func machineKey(b []byte) key.MachinePrivate { return key.MachinePrivateFromRaw([32]byte(b)) }

func TestVectorKeys(t *testing.T) {
	v := vectors(t)
	for _, k := range v.Keys {
		var public, private, parsed fmt.Stringer
		var err error
		kind, _, _ := strings.Cut(k.Kind, ",")
		switch kind {
		case "machine":
			if k.PrivateHex != nil {
				p, perr := key.ParseMachinePrivate(k.PrivateText)
				if perr != nil || p != machineKey(k.PrivateHex) {
					t.Errorf("%s: private text: %v", k.Kind, perr)
				}
				private = p.Public()
			}
			parsed, err = key.ParseMachinePublic(k.PublicText)
		case "node":
			if k.PrivateHex != nil {
				p, perr := key.ParseNodePrivate(k.PrivateText)
				if perr != nil || p != key.NodePrivateFromRaw([32]byte(k.PrivateHex)) {
					t.Errorf("%s: private text: %v", k.Kind, perr)
				}
				private = p.Public()
			}
			parsed, err = key.ParseNodePublic(k.PublicText)
		case "disco":
			if k.PrivateHex != nil {
				private = key.DiscoPrivateFromRaw([32]byte(k.PrivateHex)).Public()
			}
			parsed, err = key.ParseDiscoPublic(k.PublicText)
		default:
			continue // kinds that this program has no use for
		}
		for _, public = range []fmt.Stringer{private, parsed} {
			if public != nil && public.String() != k.PublicText {
				t.Errorf("%s: got %v, want %s", k.Kind, public, k.PublicText)
			}
		}
		if err != nil {
			t.Errorf("%s: %v", k.Kind, err)
		}
	}
	for _, p := range v.KeyParse {
		if _, err := key.ParseNodePublic(p.Text); (err == nil) != p.Valid {
			t.Errorf("ParseNodePublic(%q): %v, want valid %v", p.Text, err, p.Valid)
		}
	}
}

// schedule is the key schedule of section 2.4, written down once more without the library.
type schedule struct {
	t     *testing.T
	h, ck []byte
	steps map[string][]byte
}

func blake(parts ...[]byte) []byte {
	sum := blake2s.Sum256(bytes.Join(parts, nil))
	return sum[:]
}

func hkdf2(ck, x []byte) (o1, o2 []byte) {
	newHash := func() hash.Hash { h, _ := blake2s.New256(nil); return h }
	sum := func(k []byte, parts ...[]byte) []byte {
		m := hmac.New(newHash, k)
		m.Write(bytes.Join(parts, nil))
		return m.Sum(nil)
	}
	secret := sum(ck, x)
	o1 = sum(secret, []byte{1})
	return o1, sum(secret, o1, []byte{2})
}

func (s *schedule) want(name string, got []byte) {
	s.t.Helper()
	if !bytes.Equal(got, s.steps[name]) {
		s.t.Errorf("%s: got %x, want %x", name, got, s.steps[name])
	}
}

// mix mixes in the shared secret of two keys and returns the key for what follows.
func (s *schedule) mix(name string, private, public []byte) (k []byte) {
	s.t.Helper()
	dh, err := curve25519.X25519(private, public)
	if err != nil {
		s.t.Fatal(err)
	}
	if name != "ee" || s.steps["dh_ee"] != nil {
		s.want("dh_"+name, dh)
	}
	s.ck, k = hkdf2(s.ck, dh)
	s.want("ck_after_"+name, s.ck)
	s.want("k_after_"+name, k)
	return k
}

func (s *schedule) seal(k, plaintext []byte) []byte {
	aead, _ := chacha20poly1305.New(k)
	c := aead.Seal(nil, make([]byte, 12), plaintext, s.h)
	s.h = blake(s.h, c)
	return c
}

func publicOf(private []byte) []byte {
	public, _ := curve25519.X25519(private, curve25519.Basepoint)
	return public
}

func TestVectorKeySchedule(t *testing.T) {
	v := vectors(t).Noise
	s := &schedule{t: t, steps: make(map[string][]byte)}
	for _, step := range v.Steps {
		s.steps[step.Name] = step.Hex
	}
	s.h = blake([]byte("Noise_IK_25519_ChaChaPoly_BLAKE2s"))
	s.ck = s.h
	s.want("h0=ck0", s.h)
	s.h = blake(s.h, v.Prologue)
	s.want("h_after_prologue", s.h)
	s.h = blake(s.h, v.ControlPublic)
	s.want("h_after_control_static", s.h)

	e, r := publicOf(v.ClientEphemeral), publicOf(v.ServerEphemeral)
	s.h = blake(s.h, e)
	c1 := s.seal(s.mix("es", v.ClientEphemeral, v.ControlPublic), v.MachinePublic)
	s.want("h_after_s", s.h)
	c2 := s.seal(s.mix("ss", v.Machine, v.ControlPublic), nil)
	s.want("h_after_initiation", s.h)
	if got := bytes.Join([][]byte{{0, 131, 1, 0, 96}, e, c1, c2}, nil); !bytes.Equal(got, v.Initiation) {
		t.Errorf("initiation: got %x, want %x", got, v.Initiation)
	}
	s.h = blake(s.h, r)
	s.mix("ee", v.ClientEphemeral, r)
	c3 := s.seal(s.mix("se", v.Machine, r), nil)
	s.want("h_final", s.h)
	if got := bytes.Join([][]byte{{2, 0, 48}, r, c3}, nil); !bytes.Equal(got, v.Response) {
		t.Errorf("response: got %x, want %x", got, v.Response)
	}
	if c2s, s2c := hkdf2(s.ck, nil); !bytes.Equal(c2s, v.ClientToServer) || !bytes.Equal(s2c, v.ServerToClient) {
		t.Errorf("transport keys: got %x and %x", c2s, s2c)
	}
}

// handshakeVector runs the handshake of the vectors on both ends.
func handshakeVector(t testing.TB, v *noiseVector) (client, server *session) {
	t.Helper()
	i, initiation, err := initiate(machineKey(v.Machine), key.MachinePublic(v.ControlPublic), v.Version, bytes.NewReader(v.ClientEphemeral))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(initiation[:], v.Initiation) {
		t.Errorf("initiation: got %x, want %x", initiation, v.Initiation)
	}
	server, response, err := respond(machineKey(v.Control), initiation[:], bytes.NewReader(v.ServerEphemeral))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(response[:], v.Response) {
		t.Errorf("response: got %x, want %x", response, v.Response)
	}
	if client, err = i.finish(response[:]); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestVectorHandshake(t *testing.T) {
	v := vectors(t).Noise
	if got := prologue(v.Version); !bytes.Equal(got, v.Prologue) {
		t.Errorf("prologue: got %q, want %q", got, v.Prologue)
	}
	client, server := handshakeVector(t, &v)
	want := session{version: 131, peer: key.MachinePublic(v.ControlPublic), hash: [32]byte(v.Hash),
		tx: [32]byte(v.ClientToServer), rx: [32]byte(v.ServerToClient)}
	if *client != want {
		t.Errorf("client: got %+v, want %+v", *client, want)
	}
	want.peer, want.tx, want.rx = key.MachinePublic(v.MachinePublic), want.rx, want.tx
	if *server != want {
		t.Errorf("server: got %+v, want %+v", *server, want)
	}
}

func TestVectorReject(t *testing.T) {
	v := vectors(t)
	for _, r := range v.Reject {
		if _, _, err := respond(machineKey(v.Noise.Control), r.Initiation, nil); err == nil {
			t.Errorf("%s: accepted", r.Case)
		}
	}
}

func TestVectorErrorFrame(t *testing.T) {
	v := vectors(t).ErrorFrame
	if got := appendErrorFrame(nil, v.Text); !bytes.Equal(got, v.Wire) {
		t.Errorf("got %x, want %x", got, v.Wire)
	}
	_, err := readResponse(bytes.NewReader(v.Wire))
	if frame, ok := err.(*errorFrame); !ok || frame.text != v.Text {
		t.Errorf("got %v, want an error frame with %q", err, v.Text)
	}
}

func TestVectorRecords(t *testing.T) {
	v := vectors(t).Noise
	client, server := handshakeVector(t, &v)
	for _, dir := range []struct {
		name     string
		from, to *session
		records  []recordVector
	}{
		{"client to server", client, server, v.RecordsToServer},
		{"server to client", server, client, v.RecordsToClient},
	} {
		var tx txState
		var rx rxState
		tx.init(dir.from.tx)
		var wire bytes.Buffer
		rx.init(dir.to.rx, &wire, nil)
		for _, r := range dir.records {
			tx.seal.next, rx.seal.next = r.Counter, r.Counter
			if n, err := tx.write(&wire, r.Plaintext); err != nil || n != len(r.Plaintext) {
				t.Fatalf("%s: writing record %d: %d, %v", dir.name, r.Counter, n, err)
			}
			if !bytes.Equal(wire.Bytes(), r.Wire) || !bytes.Equal(tx.seal.nonce[:], r.Nonce) {
				t.Errorf("%s: record %d: got %x with nonce %x, want %x", dir.name, r.Counter, wire.Bytes(), tx.seal.nonce, r.Wire)
			}
			got := make([]byte, len(r.Plaintext)+1)
			if n, err := rx.read(got); err != nil || !bytes.Equal(got[:n], r.Plaintext) {
				t.Errorf("%s: reading record %d: %x, %v", dir.name, r.Counter, got[:n], err)
			}
		}
	}
}

func TestVectorSplitWrite(t *testing.T) {
	v := vectors(t).Noise
	client, server := handshakeVector(t, &v)
	split := v.SplitWrite
	plaintext := bytes.Repeat([]byte("0123456789abcdef"), split.PlaintextLen/16+1)[:split.PlaintextLen]
	var tx txState
	tx.init(client.tx)
	tx.seal.next = split.FirstCounter
	var wire bytes.Buffer
	if _, err := tx.write(&wire, plaintext); err != nil {
		t.Fatal(err)
	}
	b := wire.Bytes()
	for i, n := range split.Lens {
		if record := b[:n]; !bytes.Equal(record[:3], split.Headers[i]) || !bytes.Equal(record[n-16:], split.Tails[i]) {
			t.Errorf("record %d: got %x…%x", i, record[:3], record[n-16:])
		}
		b = b[n:]
	}
	if len(b) > 0 {
		t.Errorf("%d bytes too many", len(b))
	}
	var rx rxState
	rx.init(server.rx, &wire, nil)
	rx.seal.next = split.FirstCounter
	got := make([]byte, len(plaintext))
	if _, err := io.ReadFull(readerFunc(rx.read), got); err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("reading: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestVectorUpgrade(t *testing.T) {
	v := vectors(t)
	o := &opening{url: mustURL(t, "https://hs.example.com"), userAgent: "Go-http-client/1.1"}
	if got := string(o.appendRequest(nil, v.Noise.Initiation)); got != v.Upgrade.Request {
		t.Errorf("request: got %q, want %q", got, v.Upgrade.Request)
	}
	if got := webSocketQuery(v.Noise.Initiation); got != v.Upgrade.Query {
		t.Errorf("query: got %q, want %q", got, v.Upgrade.Query)
	}
	text := base64.StdEncoding.EncodeToString(v.Noise.Initiation)
	if got, err := decodeInitiation(text); err != nil || !bytes.Equal(got, v.Noise.Initiation) {
		t.Errorf("header: got %x, %v", got, err)
	}

	// The server's answer: the head, the response and records may come in one piece.
	client, server := net.Pipe()
	defer client.Close()
	go func() {
		defer server.Close()
		http.ReadRequest(bufio.NewReader(server))
		all := append([]byte(v.Upgrade.ResponseHead), v.Noise.Response...)
		for _, r := range v.Noise.RecordsToClient {
			all = append(all, r.Wire...)
		}
		server.Write(all)
	}()
	i, msg, err := initiate(machineKey(v.Noise.Machine), key.MachinePublic(v.Noise.ControlPublic), 131, bytes.NewReader(v.Noise.ClientEphemeral))
	if err != nil {
		t.Fatal(err)
	}
	c, err := o.native(client, i, msg[:])
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(&earlyConn{Conn: c})
	if want := v.Noise.RecordsToClient[3].Plaintext; err != nil || !bytes.Equal(got, want) {
		t.Errorf("after the early payload: got %x, %v, want %x", got, err, want)
	}
}

func TestVectorFrames(t *testing.T) {
	for _, f := range vectors(t).Frames {
		r := frameReader{src: bytes.NewReader(f.Wire), compress: f.Compress}
		got, err := r.next()
		if err != nil || string(got) != f.JSON {
			t.Errorf("got %q, %v, want %q", got, err, f.JSON)
		}
		if _, err := r.next(); err != io.EOF {
			t.Errorf("after the frame: %v, want EOF", err)
		}
		again, err := appendFrame([]byte("x"), []byte(f.JSON), f.Compress)
		if err != nil {
			t.Fatal(err)
		}
		if f.Compress == "" && !bytes.Equal(again[1:], f.Wire) {
			t.Errorf("encoding: got %x, want %x", again[1:], f.Wire)
		}
		r = frameReader{src: bytes.NewReader(again[1:]), compress: f.Compress}
		if got, err := r.next(); err != nil || string(got) != f.JSON {
			t.Errorf("after encoding: got %q, %v", got, err)
		}
	}
}

// documentTypes are the types by the names of the vectors; nil for those that are not of this program.
var documentTypes = map[string]any{
	"OverTLSPublicKeyResponse": ServerKeys{},
	"RegisterRequest":          RegisterRequest{},
	"RegisterResponse":         RegisterResponse{},
	"MapRequest":               MapRequest{},
	"MapResponse":              MapResponse{},
	"PingResponse":             PingResponse{},
	"DERPAdmitClientRequest":   AdmitRequest{},
	"DERPAdmitClientResponse":  AdmitResponse{},
	"EarlyNoise":               nil,
	"SetDNSRequest":            nil,
	"TokenRequest":             nil,
	"QueryFeatureRequest":      nil,
	"AuditLogRequest":          nil,
}

// ignored are the fields that this program does not read.
var ignored = map[string]bool{"NLKey": true, "DistroCodeName": true, "GoArchVar": true, "SSHPolicy": true}

func TestVectorDocuments(t *testing.T) {
	for _, d := range vectors(t).Documents {
		zero, known := documentTypes[d.Type]
		if !known {
			t.Errorf("%s: type %s is new", d.Name, d.Type)
		}
		if zero == nil {
			continue
		}
		doc := reflect.New(reflect.TypeOf(zero)).Interface()
		if err := json.Unmarshal(d.JSON, doc); err != nil {
			t.Errorf("%s: %v", d.Name, err)
			continue
		}
		text, err := json.Marshal(doc)
		if err != nil {
			t.Errorf("%s: %v", d.Name, err)
			continue
		}
		var want, got any
		json.Unmarshal(d.JSON, &want)
		json.Unmarshal(text, &got)
		compareJSON(t, d.Name, want, got)
	}
}

// isZero reports whether a value says the same as none. Lists and objects do not: some of them mean something.
func isZero(v any) bool {
	s, _ := v.(string)
	return v == nil || v == false || v == 0.0 || v == "" || s == "0001-01-01T00:00:00Z" ||
		strings.HasSuffix(s, ":"+strings.Repeat("0", 64))
}

func compareJSON(t *testing.T, path string, want, got any) {
	t.Helper()
	switch want := want.(type) {
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok {
			t.Errorf("%s: got %v, want an object", path, got)
			return
		}
		for name, w := range want {
			g, ok := got[name]
			if ignored[name] || !ok && isZero(w) {
				continue
			}
			compareJSON(t, path+"."+name, w, g)
		}
		for name, g := range got {
			if _, ok := want[name]; !ok && !isZero(g) {
				t.Errorf("%s.%s: got %v, want nothing", path, name, g)
			}
		}
	case []any:
		got, ok := got.([]any)
		if !ok || len(got) != len(want) {
			t.Errorf("%s: got %v, want %v", path, got, want)
			return
		}
		for i := range want {
			compareJSON(t, fmt.Sprintf("%s[%d]", path, i), want[i], got[i])
		}
	default:
		if !reflect.DeepEqual(want, got) {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
}
