package wireguard

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/tai64n"

	"ginnel/key"
)

// A fixed exchange: all its keys, indices and times are given, and therefore all its messages.
// TestVectors creates the messages with this package, TestVectorsOfReference with wireguard-go.

// sequence returns 32 bytes that count up from first.
func sequence(first byte) (b [key.Size]byte) {
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

var (
	vectorInitiator = key.NodePrivateFromRaw(sequence(0x01))
	vectorResponder = key.NodePrivateFromRaw(sequence(0x21))
	vectorPSK       = sequence(0x81)

	// Random input: the ephemeral private keys, and the cookie secret and nonce of the responder.
	vectorInitiatorEphemeral = sequence(0x41)
	vectorResponderEphemeral = sequence(0x61)
	vectorCookieSecret       = sequence(0xa1)
	vectorCookieNonce        = sequence(0xc1)

	vectorInitiatorAddr = netip.MustParseAddr("100.64.0.1")
	vectorResponderAddr = netip.MustParseAddr("100.64.0.2")

	// vectorHello and vectorReply are the packets of the initiator and of the responder.
	vectorHello = packet(vectorInitiatorAddr, vectorResponderAddr, "hello")
	vectorReply = packet(vectorResponderAddr, vectorInitiatorAddr, "reply")
)

const (
	vectorInitiatorIndex = 0x04030201
	vectorResponderIndex = 0x08070605

	// vectorSource is the initiator's address as the cookie of the responder covers it.
	vectorSource = "initiator"
)

// vectorTimestamp is 2000-01-01T00:00:00Z, the time at which a synctest bubble starts.
func vectorTimestamp() (t tai64n.Timestamp) {
	at := time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)
	binary.BigEndian.PutUint64(t[:], 0x400000000000000a+uint64(at.Unix()))
	return t
}

// vectors are the messages of the exchange, in this order.
type vectors struct {
	initiation  []byte
	cookieReply []byte // as the answer to the initiation, if the responder were under load
	response    []byte
	hello       []byte // vectorHello under counter 0 of the initiator
	reply       []byte // vectorReply under counter 0 of the responder
	keepalive   []byte // counter 1 of the initiator
}

func wantVectors(tb testing.TB) *vectors {
	return &vectors{
		initiation: unhex(tb, "010000000102030464b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466158a0e4c"+
			"a242d151ca97ab90159a98b67e616625e68b4065d357376b6598e644ad7d678c0295d22de4cb43d5135581ed"+
			"36346bfa21ca98922139f8937ba3820d1ccf3bce36d1473cd922366fc8dd1fc99e8820b8e776d923b10c4489"+
			"00000000000000000000000000000000"),
		cookieReply: unhex(tb, "0300000001020304c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d814713d6b090823d9a428d982"+
			"6bfbc3ff55159c8c3e4da89c742da68c598a48b2"),
		response: unhex(tb, "020000000506070801020304244fe3b963e899dd295baffce248d3530f3a9a7479ba063002680ebfe7adad49"+
			"98137885d1e07aad4d355a31051a661780b8055e72843db7942da0aa71a6c792000000000000000000000000"+
			"00000000"),
		hello: unhex(tb, "040000000506070800000000000000009f8f7aa2abad8d3fc59afdb77736d9512cd172af101554ab06a902c0"+
			"57ea11f54dd031146e9f1eab7eeb56513b341971"),
		reply: unhex(tb, "040000000102030400000000000000002a3c1187754c383d0c78d8edd785a2a11c4a56722c1e563041f93760"+
			"7accb7a6d6ce3bc0e0b5ea767da4e9ff51fa625e"),
		keepalive: unhex(tb, "0400000005060708010000000000000045e836be3e0a3596e52872ec13bc82f5"),
	}
}

func wantVector(tb testing.TB, name string, got, want []byte) {
	tb.Helper()
	if !bytes.Equal(got, want) {
		tb.Errorf("%s:\n got %x\nwant %x", name, got, want)
	}
}

func x25519Private(tb testing.TB, raw [key.Size]byte) *ecdh.PrivateKey {
	tb.Helper()
	k, err := ecdh.X25519().NewPrivateKey(raw[:])
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// vectorSides returns the two sides of the exchange.
func vectorSides() (initiator, responder *side) {
	initiator, responder = &side{k: vectorInitiator}, &side{k: vectorResponder}
	initiator.id, responder.id = newIdentity(initiator.k), newIdentity(responder.k)
	initiator.peer, responder.peer = newPeer(vectorResponder.Public()), newPeer(vectorInitiator.Public())
	initiator.peer.psk.Store(&vectorPSK)
	responder.peer.psk.Store(&vectorPSK)
	return initiator, responder
}

// The messages of the fixed exchange do not change.
func TestVectors(t *testing.T) {
	want := wantVectors(t)
	initiator, responder := vectorSides()
	i, b, err := initiator.id.createInitiation(initiator.peer, vectorInitiatorIndex,
		x25519Private(t, vectorInitiatorEphemeral), vectorTimestamp())
	if err != nil {
		t.Fatal(err)
	}
	initiator.peer.cookies.AddMacs(b)
	wantVector(t, "initiation", b, want.initiation)

	r, err := responder.consume(want.initiation)
	if err != nil || r.static != vectorInitiator.Public() || r.timestamp != vectorTimestamp() {
		t.Fatalf("initiation: got static key %v, timestamp %v, error %v", r.static, r.timestamp, err)
	}
	kr, b, err := r.createResponse(responder.peer, responder.id, vectorResponderIndex,
		x25519Private(t, vectorResponderEphemeral), 1)
	if err != nil {
		t.Fatal(err)
	}
	responder.peer.cookies.AddMacs(b)
	wantVector(t, "response", b, want.response)

	ki, err := i.consumeResponse(want.response, 1)
	if err != nil {
		t.Fatal(err)
	}
	wantVector(t, "hello", sealed(ki, 0, vectorHello), want.hello)
	wantVector(t, "reply", sealed(kr, 0, vectorReply), want.reply)
	wantVector(t, "keepalive", sealed(ki, 1, nil), want.keepalive)
	wantOpened(t, kr, want.hello, vectorHello)
	wantOpened(t, ki, want.reply, vectorReply)
	wantOpened(t, kr, want.keepalive, nil)
}

// sealed returns a padded transport data message.
func sealed(k *keypair, counter uint64, plain []byte) []byte {
	b := make([]byte, headerLen+len(plain)+paddingMultiple+tagLen)
	copy(b[headerLen:], plain)
	return k.seal(b, len(plain), 1420, counter, new(nonce))
}

func wantOpened(t *testing.T, k *keypair, message, want []byte) {
	t.Helper()
	plain, ok := k.open(bytes.Clone(message), new(nonce))
	if !ok || !bytes.HasPrefix(plain, want) || len(plain) >= len(want)+paddingMultiple {
		t.Errorf("opened %x, %v, want %x with padding", plain, ok, want)
	}
}

// fixedRandom is a source of random bytes that wireguard-go reads in pieces of known lengths: 32
// bytes for an ephemeral key or a cookie secret, 24 for a cookie nonce, 4 for an index.
type fixedRandom struct {
	secret [key.Size]byte
	nonce  []byte
	index  uint32
}

func (r *fixedRandom) Read(b []byte) (int, error) {
	switch len(b) {
	case len(r.secret):
		return copy(b, r.secret[:]), nil
	case len(r.nonce):
		return copy(b, r.nonce), nil
	}
	var index [4]byte
	binary.LittleEndian.PutUint32(index[:], r.index)
	return copy(b, index[:]), nil
}

// withRandom replaces the source of crypto/rand.Read for the rest of the test.
func withRandom(t *testing.T, r *fixedRandom) {
	before := rand.Reader
	rand.Reader = r
	t.Cleanup(func() { rand.Reader = before })
}

// referenceSubject returns wireguard-go's device in one role of the exchange.
func referenceSubject(t *testing.T, self, peer key.NodePrivate, peerAddr netip.Addr) subject {
	return newTheirs(t, subjectConfig{
		key: self, peer: peer.Public(), peerAddr: peerAddr, endpoint: "peer", psk: vectorPSK,
	})
}

// wireguard-go sends the messages of the fixed exchange in both roles, byte by byte, and accepts
// those of the other role.
func TestVectorsOfReference(t *testing.T) {
	want := wantVectors(t)
	t.Run("initiator", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			withRandom(t, &fixedRandom{secret: vectorInitiatorEphemeral, index: vectorInitiatorIndex})
			p := &scriptRun{t: t, subject: referenceSubject(t, vectorInitiator, vectorResponder, vectorResponderAddr)}
			defer p.subject.close()
			p.subject.send(vectorHello)
			wantVector(t, "initiation", first(p.step("initiation"), typeInitiation), want.initiation)
			p.deliver(want.response, "peer")
			wantVector(t, "hello", first(p.step("hello"), typeTransport), want.hello)
			p.deliver(want.reply, "peer")
			wantPackets(t, p.subject, vectorReply)
			time.Sleep(time.Duration(keepaliveTimeout))
			wantVector(t, "keepalive", first(p.step("keepalive"), typeTransport), want.keepalive)
		})
	})
	t.Run("responder", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			withRandom(t, &fixedRandom{secret: vectorResponderEphemeral, index: vectorResponderIndex})
			p := &scriptRun{t: t, subject: referenceSubject(t, vectorResponder, vectorInitiator, vectorInitiatorAddr)}
			defer p.subject.close()
			p.deliver(want.initiation, "peer")
			wantVector(t, "response", first(p.step("response"), typeResponse), want.response)
			p.deliver(want.hello, "peer")
			wantPackets(t, p.subject, vectorHello)
			p.deliver(want.keepalive, "peer")
			p.subject.send(vectorReply)
			wantVector(t, "reply", first(p.step("reply"), typeTransport), want.reply)
		})
	})
}

// wantPackets checks which packets a subject has received since the last step.
func wantPackets(t *testing.T, s subject, want ...[]byte) {
	t.Helper()
	time.Sleep(pause)
	_, got := s.take()
	if len(got) != len(want) {
		t.Errorf("got %d packets, want %d", len(got), len(want))
		return
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("packet %d: got %x, want %x", i, got[i], want[i])
		}
	}
}

// The cookie reply of the fixed exchange agrees with section 5.4.7, computed here step by step, and
// the MAC2 that the initiator derives from it is accepted.
func TestCookieReplyVector(t *testing.T) {
	want := wantVectors(t)
	h := vectorHost(vectorResponder, vectorInitiator, vectorInitiatorAddr)
	initiator := newPort(vectorSource)
	var reply []byte
	h.port.filter(func(b []byte, _ *port) bool {
		reply = bytes.Clone(b)
		return false
	})
	withRandom(t, &fixedRandom{secret: vectorCookieSecret, nonce: vectorCookieNonce[:chacha20poly1305.NonceSizeX]})
	h.sendCookieReply(h.self.Load(), want.initiation, initiator)
	wantVector(t, "cookie reply", reply, want.cookieReply)

	public := vectorResponder.Public()
	k := blake2s.Sum256(append([]byte("cookie--"), public[:]...))
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		t.Fatal(err)
	}
	mac1 := want.initiation[initiationMACs : initiationMACs+16]
	cookie, err := aead.Open(nil, reply[8:32], reply[32:], mac1)
	if err != nil {
		t.Fatal(err)
	}
	wantVector(t, "cookie", cookie, mac(t, vectorCookieSecret[:], []byte(vectorSource)))

	m := bytes.Clone(want.initiation)
	copy(m[len(m)-mac2Len:], mac(t, cookie, m[:len(m)-mac2Len]))
	if !h.self.Load().cookies.CheckMAC2(m, []byte(vectorSource)) {
		t.Error("the MAC2 of the cookie is refused")
	}
	if h.self.Load().cookies.CheckMAC2(m, []byte("another source")) {
		t.Error("the MAC2 is accepted from another source")
	}
}

// mac is Mac(key, input) of section 5.4: keyed BLAKE2s with 16 bytes of output.
func mac(tb testing.TB, k, input []byte) []byte {
	h, err := blake2s.New128(k)
	if err != nil {
		tb.Fatal(err)
	}
	h.Write(input)
	return h.Sum(nil)
}

// vectorHost returns a host with one role of the exchange. It is not up, and therefore needs no
// Close.
func vectorHost(self, peer key.NodePrivate, peerAddr netip.Addr) *host {
	h := &host{tun: new(tun), port: newPort("self"), key: self}
	h.Device = New(h.tun, h.port, self, slog.New(slog.DiscardHandler))
	h.SetPeer(Peer{
		Key: peer.Public(), PresharedKey: key.PresharedFromRaw(vectorPSK), Roams: true,
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(peerAddr, 32)}, Endpoint: newPort("peer"),
	})
	return h
}
