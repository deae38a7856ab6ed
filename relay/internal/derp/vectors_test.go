package derp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"

	"ginnel/key"
	"ginnel/relay/internal/relaytest"
)

// encoders makes the frame of each vector from its inputs. Boxes are in TestBoxVectors; frames that
// only old servers send are in the tests of the parsers.
var encoders = map[string]func(tb testing.TB, f *relaytest.VectorFile, v *relaytest.Vector) []byte{
	"server_key": func(tb testing.TB, f *relaytest.VectorFile, v *relaytest.Vector) []byte {
		return AppendServerKey(nil, f.Public(tb, "server"))
	},
	"send_packet":       encodeSend,
	"send_packet_empty": encodeSend,
	"send_packet_disco": encodeSend,
	"keep_alive": func(testing.TB, *relaytest.VectorFile,
		*relaytest.Vector) []byte {
		return AppendKeepAlive(nil)
	},
	"note_preferred_true": func(testing.TB, *relaytest.VectorFile, *relaytest.Vector) []byte {
		return AppendNotePreferred(nil, IsHome)
	},
	"note_preferred_false": func(testing.TB, *relaytest.VectorFile, *relaytest.Vector) []byte {
		return AppendNotePreferred(nil, NotHome)
	},
	"peer_gone_disconnected": func(tb testing.TB, f *relaytest.VectorFile, v *relaytest.Vector) []byte {
		return AppendPeerGone(nil, f.Public(tb, "peer"), GoneDisconnected)
	},
	"peer_gone_not_here": func(tb testing.TB, f *relaytest.VectorFile, v *relaytest.Vector) []byte {
		return AppendPeerGone(nil, f.Public(tb, "peer"), GoneNotHere)
	},
	"peer_present_ipv4_regular":          encodePresent,
	"peer_present_ipv6_mesh":             encodePresent,
	"peer_present_ipv4_prober_not_ideal": encodePresent,
	"peer_present_unknown_addr":          encodePresent,
	"forward_packet": func(tb testing.TB, f *relaytest.VectorFile, v *relaytest.Vector) []byte {
		return AppendForwardPacket(nil, f.Public(tb, "client"), f.Public(tb, "peer"), v.Input(tb, "packet_hex"))
	},
	"watch_conns": func(testing.TB, *relaytest.VectorFile, *relaytest.Vector) []byte {
		return AppendHeader(nil, FrameWatchConns, 0)
	},
	"close_peer": func(tb testing.TB, f *relaytest.VectorFile, v *relaytest.Vector) []byte {
		peer := f.Public(tb, "peer")
		return append(AppendHeader(nil, FrameClosePeer, key.Size), peer[:]...)
	},
	"ping": func(tb testing.TB, f *relaytest.VectorFile, v *relaytest.Vector) []byte {
		return AppendPing(nil, PingData(v.Input(tb, "data_hex")))
	},
	"pong": func(tb testing.TB, f *relaytest.VectorFile, v *relaytest.Vector) []byte {
		return AppendPong(nil, PingData(v.Input(tb, "data_hex")))
	},
	"restarting": func(tb testing.TB, f *relaytest.VectorFile, v *relaytest.Vector) []byte {
		return AppendRestarting(nil, RestartAdvice{uint32(v.Inputs["reconnect_in_ms"].(float64)),
			uint32(v.Inputs["try_for_ms"].(float64))})
	},
}

func encodeSend(tb testing.TB, f *relaytest.VectorFile, v *relaytest.Vector) []byte {
	return AppendSendPacket(nil, f.Public(tb, "peer"), v.Input(tb, "packet_hex"))
}

func encodePresent(tb testing.TB, f *relaytest.VectorFile, v *relaytest.Vector) []byte {
	p, ok := ParsePeerPresent(v.Bytes(tb)[HeaderSize:])
	if !ok {
		tb.Fatalf("%s does not parse", v.Name)
	}
	if addr := v.Inputs["addr"].(string); addr != "" && p.Addr.String() != addr || addr == "" && p.Addr.IsValid() {
		tb.Errorf("%s: address %v, want %q", v.Name, p.Addr, addr)
	}
	if p.Flags != PresentFlags(v.Inputs["flags"].(float64)) || p.Peer != f.Public(tb, "peer") {
		tb.Errorf("%s: got %+v", v.Name, p)
	}
	return AppendPeerPresent(nil, p)
}

// notEncoded are the vectors that the product never sends, or sends inside a box.
var notEncoded = map[string]string{
	"recv_packet": "the server rewrites SendPacket in place", "recv_packet_empty": "likewise",
	"server_key_with_extra_bytes": "future servers", "peer_gone_legacy": "old servers", "ping_long": "other clients",
	"peer_present_legacy_key_only": "old servers", "peer_present_legacy_no_flags": "old servers",
	"health_problem": "never sent", "health_ok": "never sent", "unknown_frame": "",
	"client_info_regular": "box", "client_info_mesh": "box", "client_info_prober": "box",
	"server_info": "box", "server_info_token_bucket": "box",
}

func TestFrameVectors(t *testing.T) {
	f := relaytest.LoadVectors(t)
	for _, v := range f.Vectors {
		want := v.Bytes(t)
		typ, n, ok := ParseHeader(want)
		if !ok || HeaderSize+int(n) != len(want) || FrameSize(want) != len(want) {
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
	f := relaytest.LoadVectors(t)
	for _, name := range []string{"server_key", "server_key_with_extra_bytes"} {
		if k, err := ParseServerKey(f.Find(t, name)[HeaderSize:]); err != nil || k != f.Public(t, "server") {
			t.Errorf("%s: got %v, %v", name, k, err)
		}
	}
	for name, want := range map[string]GoneReason{"peer_gone_disconnected": 0, "peer_gone_not_here": 1,
		"peer_gone_legacy": 0} {
		if k, reason, ok := ParsePeerGone(f.Find(t, name)[HeaderSize:]); !ok || reason != want ||
			k != f.Public(t, "peer") {
			t.Errorf("%s: got %v, %v, %v", name, k, reason, ok)
		}
	}
	for name, want := range map[string]string{"peer_present_legacy_key_only": "invalid AddrPort",
		"peer_present_legacy_no_flags": "203.0.113.7:41641"} {
		if p, ok := ParsePeerPresent(f.Find(t, name)[HeaderSize:]); !ok || p.Peer != f.Public(t, "peer") ||
			p.Flags != 0 || p.Addr.String() != want {
			t.Errorf("%s: got %+v, %v", name, p, ok)
		}
	}
	for _, name := range []string{"ping", "ping_long", "pong"} {
		if d, ok := ParsePing(f.Find(t, name)[HeaderSize:]); !ok || hex.EncodeToString(d[:]) != "deadbeef00010203" {
			t.Errorf("%s: got %x, %v", name, d, ok)
		}
	}
	if r, ok := ParseRestarting(f.Find(t, "restarting")[HeaderSize:]); !ok || r != (RestartAdvice{1500, 5000}) {
		t.Errorf("restarting: got %+v, %v", r, ok)
	}
	if !LooksLikeDisco(f.Find(t, "send_packet_disco")[SendOverhead:]) ||
		LooksLikeDisco(f.Find(t, "send_packet")[SendOverhead:]) {
		t.Error("disco is not told from data")
	}
}

// Every parser refuses a payload that is cut short at any length, and none reads beyond its end.
func TestParsersTruncated(t *testing.T) {
	f := relaytest.LoadVectors(t)
	for name, parse := range map[string]func(p []byte) bool{
		"server_key":                   func(p []byte) bool { _, err := ParseServerKey(p); return err == nil },
		"peer_gone_legacy":             func(p []byte) bool { _, _, ok := ParsePeerGone(p); return ok },
		"peer_present_legacy_key_only": func(p []byte) bool { _, ok := ParsePeerPresent(p); return ok },
		"ping":                         func(p []byte) bool { _, ok := ParsePing(p); return ok },
		"restarting":                   func(p []byte) bool { _, ok := ParseRestarting(p); return ok },
		"client_info_regular": func(p []byte) bool {
			_, _, _, err := OpenClientInfo(f.Private(t, "server"), p)
			return err == nil
		},
		"server_info": func(p []byte) bool { _, err := OpenServerInfo(f.Shared(t), p); return err == nil },
	} {
		p := f.Find(t, name)[HeaderSize:]
		if !parse(p) {
			t.Errorf("%s: whole payload refused", name)
		}
		for n := range p {
			if parse(p[:n:n]) {
				t.Errorf("%s: accepted when cut to %d of %d bytes", name, n, len(p))
			}
		}
	}
	for n := range HeaderSize {
		if _, _, ok := ParseHeader(make([]byte, n)); ok {
			t.Errorf("header of %d bytes accepted", n)
		}
	}
	if _, err := ParseServerKey(append(f.Find(t, "server_key")[HeaderSize:],
		make([]byte, MaxServerKey-39)...)); err == nil {
		t.Error("greeting of more than 1024 bytes accepted")
	}
}

// PeerPresent has 32, 50, 51 or more bytes. With fewer than 50, the address is missing (3.7).
func TestParsePeerPresentLengths(t *testing.T) {
	full := relaytest.LoadVectors(t).Find(t, "peer_present_ipv6_mesh")[HeaderSize:]
	for n := key.Size; n <= len(full); n++ {
		p, ok := ParsePeerPresent(full[:n])
		if !ok || p.Addr.IsValid() != (n >= 50) || (p.Flags == PresentMesh) != (n >= 51) {
			t.Errorf("%d bytes: got %+v, %v", n, p, ok)
		}
	}
}

func TestBoxVectors(t *testing.T) {
	f := relaytest.LoadVectors(t)
	mesh, err := ParseMeshKey(f.Keys["mesh_key_hex"])
	if err != nil {
		t.Fatal(err)
	}
	infos := map[string]ClientInfo{
		"client_info_regular": {Version: 2, CanAckPings: true},
		"client_info_mesh":    {MeshKey: SealedMeshKey{mesh}, Version: 2},
		"client_info_prober":  {Version: 2, CanAckPings: true, IsProber: true, AppName: "probe-test"},
	}
	servers := map[string]ServerInfo{
		"server_info":              {Version: 2},
		"server_info_token_bucket": {Version: 2, TokenBucketBytesPerSecond: 1000000, TokenBucketBytesBurst: 4000000},
	}
	for _, v := range f.Vectors {
		payload := v.Bytes(t)[HeaderSize:]
		if want, ok := infos[v.Name]; ok {
			client, _, got, err := OpenClientInfo(f.Private(t, "server"), payload)
			if err != nil || got != want || client != f.Public(t, "client") {
				t.Errorf("%s: got %+v of %v, %v, want %+v", v.Name, got, client, err, want)
			}
			checkSealed(t, f, &v, marshal(want), payload[key.Size:])
		}
		if want, ok := servers[v.Name]; ok {
			if got, err := OpenServerInfo(f.Shared(t), payload); err != nil || got != want {
				t.Errorf("%s: got %+v, %v, want %+v", v.Name, got, err, want)
			}
			checkSealed(t, f, &v, marshal(want), payload)
		}
	}
}

// checkSealed checks that plain is the JSON of the vector, byte for byte, and seals to its box.
func checkSealed(t *testing.T, f *relaytest.VectorFile, v *relaytest.Vector, plain, box []byte) {
	t.Helper()
	if want := v.Inputs["json"].(string); string(plain) != want {
		t.Errorf("%s: JSON %s, want %s", v.Name, plain, want)
	}
	nonce := [key.NonceSize]byte(v.Input(t, "nonce_hex"))
	if got := f.Shared(t).SealWithNonce(nil, &nonce, plain); !bytes.Equal(got, box) {
		t.Errorf("%s: box %x, want %x", v.Name, got, box)
	}
}

// A login with any byte changed is refused.
func TestLoginTampered(t *testing.T) {
	f := relaytest.LoadVectors(t)
	client := f.Find(t, "client_info_mesh")[HeaderSize:]
	for i := range client {
		for _, flip := range []byte{0x01, 0x80} {
			p := bytes.Clone(client)
			p[i] ^= flip
			if i == key.Size-1 && flip == 0x80 {
				continue // X25519 ignores the top bit of a public key (RFC 7748): another name, the same key
			}
			if _, _, _, err := OpenClientInfo(f.Private(t, "server"), p); err == nil {
				t.Errorf("ClientInfo with byte %d changed by %#x accepted", i, flip)
			}
		}
	}
	server := f.Find(t, "server_info")[HeaderSize:]
	for i := range server {
		p := bytes.Clone(server)
		p[i] ^= 0x10
		if _, err := OpenServerInfo(f.Shared(t), p); err == nil {
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
		if _, _, _, err := OpenClientInfo(server, sealed); (err == nil) != good {
			t.Errorf("ClientInfo %s: error %v, want good = %v", plain, err, good)
		}
	}
	var zero key.NodePublic
	if _, _, _, err := OpenClientInfo(server, shared.Seal(zero[:], []byte(`{}`))); err == nil {
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
		out.WriteString(fmt.Sprintf(verb, k) + fmt.Sprintf(verb, ClientInfo{MeshKey: SealedMeshKey{k}}))
	}
	if bytes.Contains(out.Bytes(), []byte("1111")) || bytes.Contains(out.Bytes(), []byte("17 17")) {
		t.Errorf("mesh key printed: %s", &out)
	}
	if (MeshKey{}).Equal(MeshKey{}) {
		t.Error("no mesh key equals no mesh key: everybody would be trusted")
	}
}
