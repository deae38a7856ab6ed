package control

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"ginnel/key"
)

// hexBytes is a byte string of the test vectors, in hex.
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

func machineKey(t testing.TB, b []byte) key.MachinePrivate {
	t.Helper()
	k, err := key.ParseMachinePrivate("privkey:" + hex.EncodeToString(b))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

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
				if perr != nil || p != machineKey(t, k.PrivateHex) {
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
			continue // a kind of key that this program does not use
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
			tx.cs.next, rx.cs.next = r.Counter, r.Counter
			if n, err := tx.write(&wire, r.Plaintext); err != nil || n != len(r.Plaintext) {
				t.Fatalf("%s: writing record %d: %d, %v", dir.name, r.Counter, n, err)
			}
			if !bytes.Equal(wire.Bytes(), r.Wire) || !bytes.Equal(tx.cs.nonce[:], r.Nonce) {
				t.Errorf("%s: record %d: got %x with nonce %x, want %x", dir.name, r.Counter, wire.Bytes(), tx.cs.nonce, r.Wire)
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
	tx.cs.next = split.FirstCounter
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
	rx.cs.next = split.FirstCounter
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

	// The HTTP head, the handshake response and the first records may arrive in one segment.
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
	i, msg, err := initiate(machineKey(t, v.Noise.Machine), key.MachinePublic(v.Noise.ControlPublic), 131,
		bytes.NewReader(v.Noise.ClientEphemeral))
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
