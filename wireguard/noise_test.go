package wireguard

import (
	"bytes"
	"crypto/ecdh"
	stdhmac "crypto/hmac"
	"crypto/rand"
	"encoding/hex"
	"hash"
	"testing"

	"github.com/flynn/noise"
	"golang.org/x/crypto/blake2s"
	"golang.zx2c4.com/wireguard/tai64n"

	"ginnel/key"
)

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// hmac agrees with crypto/hmac over BLAKE2s for every input length in use.
func TestHMAC(t *testing.T) {
	newHash := func() hash.Hash {
		h, err := blake2s.New256(nil)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	for n := range hashLen + 2 {
		var k [hashLen]byte
		input := make([]byte, n)
		rand.Read(k[:])
		rand.Read(input)
		want := stdhmac.New(newHash, k[:])
		want.Write(input)
		if got := hmac(&k, input); !bytes.Equal(got[:], want.Sum(nil)) {
			t.Errorf("hmac of %d bytes: got %x, want %x", n, got, want.Sum(nil))
		}
	}
}

// kdf agrees with the vectors of wireguard-go. Their keys are shorter than hashLen, which does not
// matter, because HMAC pads keys with zeros.
func TestKDF(t *testing.T) {
	for _, v := range []struct {
		key, input string
		want       [3]string
	}{
		{"746573742d6b6579", "746573742d696e707574", [3]string{
			"6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
			"df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
			"fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24"}},
		{"776972656775617264", "776972656775617264", [3]string{
			"491d43bbfdaa8750aaf535e334ecbfe5129967cd64635101c566d4caefda96e8",
			"1e71a379baefd8a79aa4662212fcafe19a23e2b609a3db7d6bcba8f560e3d25f",
			"31e1ae48bddfbe5de38f295e5452b1909a1b4e38e183926af3780b0c1e1f0160"}},
		{"", "", [3]string{
			"8387b46bf43eccfcf349552a095d8315c4055beb90208fb1be23b894bc2ed5d0",
			"58a0e5f6faefccf4807bff1f05fa8a9217945762040bcec2f4b4a62bdfe0e86e",
			"0ce6ea98ec548f8e281e93e32db65621c45eb18dc6f0a7ad94178610a2f7338e"}},
	} {
		var k [hashLen]byte
		copy(k[:], unhex(t, v.key))
		for n := 1; n <= 3; n++ {
			var out [3][hashLen]byte
			kdf(&k, unhex(t, v.input), []*[hashLen]byte{&out[0], &out[1], &out[2]}[:n]...)
			for i := range n {
				if got := hex.EncodeToString(out[i][:]); got != v.want[i] {
					t.Errorf("output %d of Kdf%d with key %q: got %s, want %s", i+1, n, v.key, got, v.want[i])
				}
			}
		}
		first := k // kdf allows the key to be an output
		kdf(&first, unhex(t, v.input), &first)
		if got := hex.EncodeToString(first[:]); got != v.want[0] {
			t.Errorf("Kdf1 in place: got %s, want %s", got, v.want[0])
		}
	}
}

// The transcript reproduces the published test vectors of Noise_IKpsk2. They have no prologue, and
// other payloads than WireGuard.
func TestNoiseVectors(t *testing.T) {
	private := func(s string) *ecdh.PrivateKey {
		k, err := ecdh.X25519().NewPrivateKey(unhex(t, s))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	initStatic := private("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	respStatic := private("0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20")
	initEphemeral := private("202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f")
	respEphemeral := private("4142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60")
	psk := [key.Size]byte(unhex(t, "2176657279736563726574766572797365637265747665727973656372657421"))
	want := func(what string, got []byte, want string) {
		t.Helper()
		if hex.EncodeToString(got) != want {
			t.Errorf("%s: got %x, want %s", what, got, want)
		}
	}
	shared := func(k *ecdh.PrivateKey, public *ecdh.PublicKey) []byte {
		secret, err := k.ECDH(public)
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}

	c := transcript{chainingKey: blake2s.Sum256([]byte(construction))}
	c.hash = c.chainingKey
	c.mixHash(nil)
	c.mixHash(respStatic.PublicKey().Bytes())
	b := initEphemeral.PublicKey().Bytes()
	c.mixEphemeral(b)
	b = c.seal(b, c.mixSecret(shared(initEphemeral, respStatic.PublicKey())), initStatic.PublicKey().Bytes())
	b = c.seal(b, c.mixSecret(shared(initStatic, respStatic.PublicKey())), []byte("test_msg_0"))
	want("first message", b, "358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254"+
		"d06f15f78ad0914d9715147bb5a5004b27345a838bab4aa8bc5f144afc2cf4cca972105ba526e8c92b759e028200e766"+
		"6a3d77b86f9aa87dcfe685e771e38b97d3c5996368c663051641")
	b = respEphemeral.PublicKey().Bytes()
	c.mixEphemeral(b)
	if err := c.mixDH(respEphemeral, initEphemeral.PublicKey()); err != nil {
		t.Fatal(err)
	}
	if err := c.mixDH(respEphemeral, initStatic.PublicKey()); err != nil {
		t.Fatal(err)
	}
	b = c.seal(b, c.mixPreshared(&psk), []byte("test_msg_1"))
	want("second message", b, "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466"+
		"168e6913e78d7a2b04b2f3d5529e73e953bafe6c7ce2b1005367")
	initiator, responder := c.transportKeys()
	want("third message", initiator.Seal(nil, zeroNonce[:], []byte("yellowsubmarine"), nil),
		"6013ea114b4c4884afb82bf029f72f924bd8a32c487a15a1cef4855ba234be")
	want("fourth message", responder.Seal(nil, zeroNonce[:], []byte("submarineyellow"), nil),
		"8a2e7119635e41a35b7e64e0adac5483b66b1a9827895124ea07d58440b654")
}

// side is one side of a handshake without devices.
type side struct {
	k    key.NodePrivate
	id   *identity
	peer *peer // the other side
}

func twoSides(psk [key.Size]byte) (a, b *side) {
	a, b = &side{k: key.NewNodePrivate()}, &side{k: key.NewNodePrivate()}
	for _, pair := range [][2]*side{{a, b}, {b, a}} {
		s, other := pair[0], pair[1]
		s.id, s.peer = newIdentity(s.k), newPeer(other.k.Public())
		s.peer.psk.Store(&psk)
	}
	return a, b
}

// initiate creates an initiation to the other side.
func (s *side) initiate(tb testing.TB, local uint32) (*initiation, []byte) {
	tb.Helper()
	i, b, err := s.id.createInitiation(s.peer, local, newEphemeral(), tai64n.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return i, b
}

// consume consumes an initiation of the other side.
func (s *side) consume(b []byte) (*receivedInitiation, error) {
	r, err := s.id.consumeStatic(b)
	if err != nil {
		return nil, err
	}
	static, err := s.peer.staticStatic(s.id)
	if err != nil {
		return nil, err
	}
	return r, r.consumeTimestamp(b, static)
}

// respond consumes an initiation and creates the response to it.
func (s *side) respond(tb testing.TB, b []byte, local uint32) (*keypair, []byte) {
	tb.Helper()
	r, err := s.consume(b)
	if err != nil {
		tb.Fatal(err)
	}
	k, response, err := r.createResponse(s.peer, s.id, local, newEphemeral(), 1)
	if err != nil {
		tb.Fatal(err)
	}
	return k, response
}

// wantMatchingKeypairs checks that each of two keypairs opens what the other seals.
func wantMatchingKeypairs(t *testing.T, a, b *keypair) {
	t.Helper()
	for _, s := range []struct{ from, to *keypair }{{a, b}, {b, a}} {
		var n nonce
		m := s.from.seal(append(make([]byte, headerLen), "hello"...), 5, 5, 7, &n)
		plain, ok := s.to.open(m, &n)
		if !ok || string(plain) != "hello" || s.from.remoteIndex != s.to.localIndex {
			t.Errorf("hello sent to index %d: index %d received %q, %v", s.from.remoteIndex, s.to.localIndex, plain, ok)
		}
	}
}

// Both roles complete a handshake with an independent implementation of Noise.
func TestNoiseLibrary(t *testing.T) {
	suite := noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s)
	psk := [key.Size]byte{1, 2, 3}
	for range 10 {
		a, b := twoSides(psk)
		raw := b.k.Raw()
		public := b.k.Public()
		config := noise.Config{
			CipherSuite: suite, Random: rand.Reader, Pattern: noise.HandshakeIK, Prologue: []byte(identifier),
			PresharedKey: psk[:], PresharedKeyPlacement: 2,
			StaticKeypair: noise.DHKey{Private: raw[:], Public: public[:]},
		}
		theirs, err := noise.NewHandshakeState(config)
		if err != nil {
			t.Fatal(err)
		}
		i, m := a.initiate(t, 1)
		stamp, _, _, err := theirs.ReadMessage(nil, m[initiationEphemeral:initiationMACs])
		if err != nil || len(stamp) != tai64n.TimestampSize {
			t.Fatalf("our initiation is refused: %v", err)
		}
		response := make([]byte, responseEphemeral, responseLen)
		response, recv, send, err := theirs.WriteMessage(response, nil)
		if err != nil {
			t.Fatal(err)
		}
		k, err := i.consumeResponse(response[:responseLen], 1)
		if err != nil {
			t.Fatalf("consuming their response: %v", err)
		}
		wantMatchingKeypairs(t, k, &keypair{remoteIndex: 1, send: newAEAD(send.UnsafeKey()), recv: newAEAD(recv.UnsafeKey())})

		self := a.k.Public()
		config.Initiator, config.PeerStatic = true, self[:]
		if theirs, err = noise.NewHandshakeState(config); err != nil {
			t.Fatal(err)
		}
		m = make([]byte, initiationEphemeral, initiationLen)
		now := tai64n.Now()
		if m, _, _, err = theirs.WriteMessage(m, now[:]); err != nil {
			t.Fatal(err)
		}
		r, err := a.consume(m[:initiationLen])
		if err != nil || r.static != public || r.timestamp != now {
			t.Fatalf("their initiation: got static key %v, timestamp %v, error %v", r.static, r.timestamp, err)
		}
		k, response, err = r.createResponse(a.peer, a.id, 2, newEphemeral(), 1)
		if err != nil {
			t.Fatal(err)
		}
		_, send, recv, err = theirs.ReadMessage(nil, response[responseEphemeral:responseMACs])
		if err != nil {
			t.Fatalf("our response is refused: %v", err)
		}
		wantMatchingKeypairs(t, k, &keypair{remoteIndex: 2, send: newAEAD(send.UnsafeKey()), recv: newAEAD(recv.UnsafeKey())})
	}
}
