package relay

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"ginnel/internal/key"
)

// vectorFile is testdata/derp.json: bytes that the reference implementation makes or accepts.
type vectorFile struct {
	Keys      map[string]string
	Vectors   []vector
	Malformed []vector
	Text      []vector
	STUN      []vector
}

type vector struct {
	Name   string
	Inputs map[string]any
	Hex    string
	Expect string
}

func loadVectors(tb testing.TB) *vectorFile {
	tb.Helper()
	b, err := os.ReadFile("testdata/derp.json")
	if err != nil {
		tb.Fatal(err)
	}
	f := new(vectorFile)
	if err := json.Unmarshal(b, f); err != nil {
		tb.Fatal(err)
	}
	return f
}

// find returns the bytes of the named vector of any section.
func (f *vectorFile) find(tb testing.TB, name string) []byte {
	tb.Helper()
	for _, list := range [][]vector{f.Vectors, f.Malformed, f.Text, f.STUN} {
		for _, v := range list {
			if v.Name == name {
				return v.bytes(tb)
			}
		}
	}
	tb.Fatalf("no vector %q", name)
	return nil
}

func (f *vectorFile) public(tb testing.TB, name string) key.NodePublic {
	return key.NodePublic(unhex(tb, f.Keys[name+"_public_hex"]))
}

func (f *vectorFile) private(tb testing.TB, name string) key.NodePrivate {
	return key.NodePrivateFromRaw([32]byte(unhex(tb, f.Keys[name+"_private_hex"])))
}

func (v *vector) bytes(tb testing.TB) []byte { return unhex(tb, v.Hex) }

// input returns an input that is given in hex.
func (v *vector) input(tb testing.TB, name string) []byte {
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

// encoders makes the frame of each vector from its inputs. Boxes are in TestBoxVectors, frames that
// only old servers send in the parsers' tests.
var encoders = map[string]func(tb testing.TB, f *vectorFile, v *vector) []byte{
	"server_key": func(tb testing.TB, f *vectorFile, v *vector) []byte {
		return appendServerKey(nil, f.public(tb, "server"))
	},
	"send_packet":       encodeSend,
	"send_packet_empty": encodeSend,
	"send_packet_disco": encodeSend,
	"recv_packet":       encodeRecv,
	"recv_packet_empty": encodeRecv,
	"keep_alive":        func(testing.TB, *vectorFile, *vector) []byte { return keepAliveFrame },
	"note_preferred_true": func(testing.TB, *vectorFile, *vector) []byte {
		return appendNotePreferred(nil, isHome)
	},
	"note_preferred_false": func(testing.TB, *vectorFile, *vector) []byte {
		return appendNotePreferred(nil, notHome)
	},
	"peer_gone_disconnected": func(tb testing.TB, f *vectorFile, v *vector) []byte {
		return appendPeerGone(nil, f.public(tb, "peer"), goneDisconnected)
	},
	"peer_gone_not_here": func(tb testing.TB, f *vectorFile, v *vector) []byte {
		return appendPeerGone(nil, f.public(tb, "peer"), goneNotHere)
	},
	"peer_present_ipv4_regular":          encodePresent,
	"peer_present_ipv6_mesh":             encodePresent,
	"peer_present_ipv4_prober_not_ideal": encodePresent,
	"peer_present_unknown_addr":          encodePresent,
	"forward_packet": func(tb testing.TB, f *vectorFile, v *vector) []byte {
		return appendForwardPacket(nil, f.public(tb, "client"), f.public(tb, "peer"), v.input(tb, "packet_hex"))
	},
	"watch_conns": func(testing.TB, *vectorFile, *vector) []byte { return appendHeader(nil, frameWatchConns, 0) },
	"close_peer": func(tb testing.TB, f *vectorFile, v *vector) []byte {
		return appendClosePeer(nil, f.public(tb, "peer"))
	},
	"ping": func(tb testing.TB, f *vectorFile, v *vector) []byte {
		return appendPing(nil, pingData(v.input(tb, "data_hex")))
	},
	"pong": func(tb testing.TB, f *vectorFile, v *vector) []byte {
		return appendPong(nil, pingData(v.input(tb, "data_hex")))
	},
	"restarting": func(tb testing.TB, f *vectorFile, v *vector) []byte {
		return appendRestarting(nil, restart{uint32(v.Inputs["reconnect_in_ms"].(float64)), uint32(v.Inputs["try_for_ms"].(float64))})
	},
}

func encodeSend(tb testing.TB, f *vectorFile, v *vector) []byte {
	return appendSendPacket(nil, f.public(tb, "peer"), v.input(tb, "packet_hex"))
}

// encodeRecv makes a RecvPacket the way the server does: from a SendPacket, in place.
func encodeRecv(tb testing.TB, f *vectorFile, v *vector) []byte {
	frame := appendSendPacket(nil, f.public(tb, "peer"), v.input(tb, "packet_hex"))
	c := &serverConn{key: f.public(tb, "client")}
	var r run
	c.addSend(&r, frame)
	return r.frames
}

func encodePresent(tb testing.TB, f *vectorFile, v *vector) []byte {
	p, ok := parsePeerPresent(v.bytes(tb)[headerSize:])
	if !ok {
		tb.Fatalf("%s does not parse", v.Name)
	}
	if addr := v.Inputs["addr"].(string); addr != "" && p.addr.String() != addr || addr == "" && p.addr.IsValid() {
		tb.Errorf("%s: address %v, want %q", v.Name, p.addr, addr)
	}
	if p.flags != presentFlags(v.Inputs["flags"].(float64)) || p.peer != f.public(tb, "peer") {
		tb.Errorf("%s: got %+v", v.Name, p)
	}
	return appendPeerPresent(nil, p)
}

// notEncoded are the vectors that the product never sends, or sends inside a box.
var notEncoded = map[string]string{
	"server_key_with_extra_bytes": "future servers", "peer_gone_legacy": "old servers", "ping_long": "other clients",
	"peer_present_legacy_key_only": "old servers", "peer_present_legacy_no_flags": "old servers",
	"health_problem": "never sent", "health_ok": "never sent", "unknown_frame": "",
	"client_info_regular": "box", "client_info_mesh": "box", "client_info_prober": "box",
	"server_info": "box", "server_info_token_bucket": "box",
}

func TestFrameVectors(t *testing.T) {
	f := loadVectors(t)
	for _, v := range f.Vectors {
		want := v.bytes(t)
		typ, n, ok := parseHeader(want)
		if !ok || headerSize+int(n) != len(want) || frameSize(want) != len(want) {
			t.Errorf("%s: header %v %d %v does not fit %d bytes", v.Name, typ, n, ok, len(want))
		}
		encode := encoders[v.Name]
		if encode == nil {
			if _, ok := notEncoded[v.Name]; !ok {
				t.Errorf("%s: vector not covered", v.Name)
			}
			continue
		}
		if got := encode(t, f, &v); !bytes.Equal(got, want) {
			t.Errorf("%s:\ngot  %x\nwant %x", v.Name, got, want)
		}
	}
}

func TestParseVectors(t *testing.T) {
	f := loadVectors(t)
	for _, name := range []string{"server_key", "server_key_with_extra_bytes"} {
		if k, err := parseServerKey(f.find(t, name)[headerSize:]); err != nil || k != f.public(t, "server") {
			t.Errorf("%s: got %v, %v", name, k, err)
		}
	}
	for name, want := range map[string]goneReason{"peer_gone_disconnected": 0, "peer_gone_not_here": 1, "peer_gone_legacy": 0} {
		if k, reason, ok := parsePeerGone(f.find(t, name)[headerSize:]); !ok || reason != want || k != f.public(t, "peer") {
			t.Errorf("%s: got %v, %v, %v", name, k, reason, ok)
		}
	}
	for name, want := range map[string]string{"peer_present_legacy_key_only": "invalid AddrPort", "peer_present_legacy_no_flags": "203.0.113.7:41641"} {
		if p, ok := parsePeerPresent(f.find(t, name)[headerSize:]); !ok || p.peer != f.public(t, "peer") || p.flags != 0 || p.addr.String() != want {
			t.Errorf("%s: got %+v, %v", name, p, ok)
		}
	}
	for _, name := range []string{"ping", "ping_long", "pong"} {
		if d, ok := parsePing(f.find(t, name)[headerSize:]); !ok || hex.EncodeToString(d[:]) != "deadbeef00010203" {
			t.Errorf("%s: got %x, %v", name, d, ok)
		}
	}
	if r, ok := parseRestarting(f.find(t, "restarting")[headerSize:]); !ok || r != (restart{1500, 5000}) {
		t.Errorf("restarting: got %+v, %v", r, ok)
	}
	if !looksLikeDisco(f.find(t, "send_packet_disco")[sendOverhead:]) || looksLikeDisco(f.find(t, "send_packet")[sendOverhead:]) {
		t.Error("disco is not told from data")
	}
}

// Every parser refuses what is cut short, at every length, and none goes beyond the end.
func TestParsersTruncated(t *testing.T) {
	f := loadVectors(t)
	for name, parse := range map[string]func(p []byte) bool{
		"server_key":                   func(p []byte) bool { _, err := parseServerKey(p); return err == nil },
		"peer_gone_legacy":             func(p []byte) bool { _, _, ok := parsePeerGone(p); return ok },
		"peer_present_legacy_key_only": func(p []byte) bool { _, ok := parsePeerPresent(p); return ok },
		"ping":                         func(p []byte) bool { _, ok := parsePing(p); return ok },
		"restarting":                   func(p []byte) bool { _, ok := parseRestarting(p); return ok },
		"client_info_regular": func(p []byte) bool {
			_, _, _, err := openClientInfo(f.private(t, "server"), p)
			return err == nil
		},
		"server_info": func(p []byte) bool { _, err := openServerInfo(sharedVector(t, f), p); return err == nil },
	} {
		p := f.find(t, name)[headerSize:]
		if !parse(p) {
			t.Errorf("%s: whole payload refused", name)
		}
		for n := range p {
			if parse(p[:n:n]) {
				t.Errorf("%s: accepted when cut to %d of %d bytes", name, n, len(p))
			}
		}
	}
	for n := range headerSize {
		if _, _, ok := parseHeader(make([]byte, n)); ok {
			t.Errorf("header of %d bytes accepted", n)
		}
	}
	if _, err := parseServerKey(append(f.find(t, "server_key")[headerSize:], make([]byte, maxServerKey-39)...)); err == nil {
		t.Error("greeting of more than 1024 bytes accepted")
	}
}

func sharedVector(tb testing.TB, f *vectorFile) *key.Shared {
	tb.Helper()
	s, err := f.private(tb, "client").Shared(f.public(tb, "server"))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// PeerPresent may be 32, 50, 51 or more bytes; between the first two the address is not there
// (3.7).
func TestParsePeerPresentLengths(t *testing.T) {
	full := loadVectors(t).find(t, "peer_present_ipv6_mesh")[headerSize:]
	for n := key.Size; n <= len(full); n++ {
		p, ok := parsePeerPresent(full[:n])
		if !ok || p.addr.IsValid() != (n >= 50) || (p.flags == presentMesh) != (n >= 51) {
			t.Errorf("%d bytes: got %+v, %v", n, p, ok)
		}
	}
}

func TestBoxVectors(t *testing.T) {
	f := loadVectors(t)
	mesh, err := ParseMeshKey(f.Keys["mesh_key_hex"])
	if err != nil {
		t.Fatal(err)
	}
	infos := map[string]clientInfo{
		"client_info_regular": {Version: 2, CanAckPings: true},
		"client_info_mesh":    {MeshKey: sealedMeshKey{mesh}, Version: 2},
		"client_info_prober":  {Version: 2, CanAckPings: true, IsProber: true, AppName: "probe-test"},
	}
	servers := map[string]serverInfo{
		"server_info":              {Version: 2},
		"server_info_token_bucket": {Version: 2, TokenBucketBytesPerSecond: 1000000, TokenBucketBytesBurst: 4000000},
	}
	for _, v := range f.Vectors {
		payload := v.bytes(t)[headerSize:]
		if want, ok := infos[v.Name]; ok {
			client, _, got, err := openClientInfo(f.private(t, "server"), payload)
			if err != nil || got != want || client != f.public(t, "client") {
				t.Errorf("%s: got %+v of %v, %v, want %+v", v.Name, got, client, err, want)
			}
			checkSealed(t, f, &v, mustJSON(want), payload[key.Size:])
		}
		if want, ok := servers[v.Name]; ok {
			if got, err := openServerInfo(sharedVector(t, f), payload); err != nil || got != want {
				t.Errorf("%s: got %+v, %v, want %+v", v.Name, got, err, want)
			}
			checkSealed(t, f, &v, mustJSON(want), payload)
		}
	}
}

// checkSealed checks that plain is the JSON of the vector to the byte, and seals to its box.
func checkSealed(t *testing.T, f *vectorFile, v *vector, plain, box []byte) {
	t.Helper()
	if want := v.Inputs["json"].(string); string(plain) != want {
		t.Errorf("%s: JSON %s, want %s", v.Name, plain, want)
	}
	nonce := [key.NonceSize]byte(v.input(t, "nonce_hex"))
	if got := sharedVector(t, f).SealWithNonce(nil, &nonce, plain); !bytes.Equal(got, box) {
		t.Errorf("%s: box %x, want %x", v.Name, got, box)
	}
}

// Whatever byte of a login changes on the way, it does not pass.
func TestLoginTampered(t *testing.T) {
	f := loadVectors(t)
	client := f.find(t, "client_info_mesh")[headerSize:]
	for i := range client {
		for _, flip := range []byte{0x01, 0x80} {
			p := bytes.Clone(client)
			p[i] ^= flip
			if i == key.Size-1 && flip == 0x80 {
				continue // X25519 ignores the top bit of a public key (RFC 7748): another name, the same key
			}
			if _, _, _, err := openClientInfo(f.private(t, "server"), p); err == nil {
				t.Errorf("ClientInfo with byte %d changed by %#x accepted", i, flip)
			}
		}
	}
	server := f.find(t, "server_info")[headerSize:]
	for i := range server {
		p := bytes.Clone(server)
		p[i] ^= 0x10
		if _, err := openServerInfo(sharedVector(t, f), p); err == nil {
			t.Errorf("ServerInfo with byte %d changed accepted", i)
		}
	}
}

func TestLoginJSON(t *testing.T) {
	server, client := key.NewNodePrivate(), key.NewNodePrivate()
	shared, err := client.Shared(server.Public())
	if err != nil {
		t.Fatal(err)
	}
	const hex64 = "D0d7dec5ccf3fae1e8ef969d848bb2b9a0a7ae555c434a71787f666d141b0209"
	for plain, good := range map[string]bool{
		`{}`: true,
		`{"version":2,"CanAckPings":true,"Unknown":[1]}`:   true,
		`{"VERSION":2,"canackpings":true,"isprober":true}`: true, // names match in any case (2.4)
		`{"meshKey":"` + hex64 + `"}`:                      true,
		`{"MESHKEY":"` + hex64 + `"}`:                      true,
		`{"meshKey":""}`:                                   false,
		`{"meshKey":null}`:                                 false,
		`{"meshKey":1}`:                                    false,
		`{"meshKey":"` + hex64[1:] + `"}`:                  false,
		`{"meshKey":" ` + hex64 + `"}`:                     false,
		`{"meshKey":"g` + hex64[1:] + `"}`:                 false,
		`{"version":"2"}`:                                  false,
		`{"CanAckPings":1}`:                                false,
		`[]`:                                               false,
		``:                                                 false,
		`{"version":2`:                                     false,
	} {
		payload := client.Public()
		sealed := shared.Seal(payload[:], []byte(plain))
		if _, _, _, err := openClientInfo(server, sealed); (err == nil) != good {
			t.Errorf("ClientInfo %s: error %v, want good = %v", plain, err, good)
		}
	}
	var zero key.NodePublic
	if _, _, _, err := openClientInfo(server, shared.Seal(zero[:], []byte(`{}`))); err == nil {
		t.Error("login with the zero key accepted (2.3)")
	}
}

func TestMeshKeyTellsNothing(t *testing.T) {
	k, err := ParseMeshKey(" 1111111111111111111111111111111111111111111111111111111111111111\n")
	if err != nil || k.IsZero() {
		t.Fatalf("got %v, %v", k, err)
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		out.WriteString(fmt.Sprintf(verb, k) + fmt.Sprintf(verb, clientInfo{MeshKey: sealedMeshKey{k}}) + fmt.Sprintf(verb, ServerConfig{MeshKey: k}))
	}
	if bytes.Contains(out.Bytes(), []byte("1111")) || bytes.Contains(out.Bytes(), []byte("17 17")) {
		t.Errorf("mesh key printed: %s", &out)
	}
	if (MeshKey{}).equal(MeshKey{}) {
		t.Error("no mesh key equals no mesh key: everybody would be trusted")
	}
}

// appendClosePeer makes the frame by which a mesh peer has a client cut; the product only receives
// it.
func appendClosePeer(b []byte, peer key.NodePublic) []byte {
	return append(appendHeader(b, frameClosePeer, key.Size), peer[:]...)
}
