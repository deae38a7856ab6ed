package control

import (
	"bytes"
	"crypto/hmac"
	"hash"
	"testing"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"

	"ginnel/key"
)

// schedule is the key schedule of section 2.4, implemented independently of the Noise library.
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

// mix mixes in the shared secret of two keys and returns the key of the next encryption.
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

// handshakeVector runs both ends of the handshake of the test vectors.
func handshakeVector(t testing.TB, v *noiseVector) (client, server *session) {
	t.Helper()
	i, initiation, err := initiate(machineKey(t, v.Machine), key.MachinePublic(v.ControlPublic), v.Version,
		bytes.NewReader(v.ClientEphemeral))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(initiation[:], v.Initiation) {
		t.Errorf("initiation: got %x, want %x", initiation, v.Initiation)
	}
	server, response, err := respond(machineKey(t, v.Control), initiation[:], bytes.NewReader(v.ServerEphemeral))
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
	want := session{version: 131, peer: key.MachinePublic(v.ControlPublic),
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
		if _, _, err := respond(machineKey(t, v.Noise.Control), r.Initiation, nil); err == nil {
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
