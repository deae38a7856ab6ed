package wireguard

import (
	"crypto/cipher"
	"crypto/ecdh"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"

	"ginnel/internal/key"
)

// The functions of section 5.4 of the paper, and the state that both messages of a handshake mix
// into. Together they are Noise_IKpsk2. Curve25519 comes from crypto/ecdh, which
// x/crypto/curve25519 wraps: the wrapper takes a private key as bytes and multiplies once more to
// get its public key.

const (
	construction = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
	identifier   = "WireGuard v1 zx2c4 Jason@zx2c4.com"

	hashLen = blake2s.Size
)

// zeroNonce is the nonce of both handshake messages: each of their keys encrypts once.
var zeroNonce [chacha20poly1305.NonceSize]byte

// hmac is Hmac(k, input), HMAC-BLAKE2s of RFC 2104, for inputs of up to hashLen+1 bytes.
// crypto/hmac allocates two hashes in each call, and a handshake has 21.
func hmac(k *[hashLen]byte, input []byte) [hashLen]byte {
	const inner, outer = 0x36, 0x5c
	var b [blake2s.BlockSize + hashLen + 1]byte
	copy(b[:], k[:])
	for i := range blake2s.BlockSize {
		b[i] ^= inner
	}
	n := copy(b[blake2s.BlockSize:], input)
	sum := blake2s.Sum256(b[:blake2s.BlockSize+n])
	for i := range blake2s.BlockSize {
		b[i] ^= inner ^ outer
	}
	n = copy(b[blake2s.BlockSize:], sum[:])
	return blake2s.Sum256(b[:blake2s.BlockSize+n])
}

// kdf is Kdf_n(k, input), where n is the number of outputs. k may be one of them.
func kdf(k *[hashLen]byte, input []byte, outputs ...*[hashLen]byte) {
	secret := hmac(k, input)
	var b [hashLen + 1]byte // the output before, and the number of this one
	n := 0
	for i, output := range outputs {
		b[n] = byte(i + 1)
		*output = hmac(&secret, b[:n+1])
		n = copy(b[:], output[:])
	}
}

// transcript is what the two sides of a handshake have in common so far. It is a value: who reads a
// message works on a copy, so a message that turns out to be forged leaves no trace.
type transcript struct {
	chainingKey [hashLen]byte // C
	hash        [hashLen]byte // H
}

// initialTranscript is that of all handshakes before the static key of the responder is mixed in.
var initialTranscript = func() transcript {
	t := transcript{chainingKey: blake2s.Sum256([]byte(construction))}
	t.hash = t.chainingKey
	t.mixHash([]byte(identifier))
	return t
}()

// newTranscript begins a handshake with the owner of a static key.
func newTranscript(responder key.NodePublic) transcript {
	t := initialTranscript
	t.mixHash(responder[:])
	return t
}

// mixHash is H := Hash(H || b), for up to 48 bytes, the longest field of a message.
func (t *transcript) mixHash(b []byte) {
	var joined [hashLen + key.Size + tagLen]byte
	n := copy(joined[:], t.hash[:])
	n += copy(joined[n:], b)
	t.hash = blake2s.Sum256(joined[:n])
}

// mixEphemeral mixes in the ephemeral key that a message begins with.
func (t *transcript) mixEphemeral(public []byte) {
	t.mixHash(public)
	t.mixKey(public)
}

// mixKey is C := Kdf1(C, input).
func (t *transcript) mixKey(input []byte) { kdf(&t.chainingKey, input, &t.chainingKey) }

// mixSecret is (C, k) := Kdf2(C, secret). k encrypts the next field.
func (t *transcript) mixSecret(secret []byte) (k [hashLen]byte) {
	kdf(&t.chainingKey, secret, &t.chainingKey, &k)
	return k
}

// mixPreshared is (C, tau, k) := Kdf3(C, psk) and H := Hash(H || tau). k encrypts the next field.
func (t *transcript) mixPreshared(psk *[key.Size]byte) (k [hashLen]byte) {
	var tau [hashLen]byte
	kdf(&t.chainingKey, psk[:], &t.chainingKey, &tau, &k)
	t.mixHash(tau[:])
	return k
}

// mixExchange is C := Kdf1(C, DH(private, public)). It refuses points of low order.
func (t *transcript) mixExchange(private *ecdh.PrivateKey, public *ecdh.PublicKey) error {
	secret, err := private.ECDH(public)
	if err != nil {
		return err
	}
	t.mixKey(secret)
	return nil
}

// seal appends a field to the message b: plain encrypted under k, with H as additional data.
func (t *transcript) seal(b []byte, k [hashLen]byte, plain []byte) []byte {
	n := len(b)
	b = newAEAD(k).Seal(b, zeroNonce[:], plain, t.hash[:])
	t.mixHash(b[n:])
	return b
}

// open decrypts a field into dst, which has room for it.
func (t *transcript) open(dst []byte, k [hashLen]byte, field []byte) error {
	if _, err := newAEAD(k).Open(dst[:0], zeroNonce[:], field, t.hash[:]); err != nil {
		return err
	}
	t.mixHash(field)
	return nil
}

// session derives the keys of the session (section 5.4.5): the first is what the initiator sends
// by.
func (t *transcript) session() (initiator, responder cipher.AEAD) {
	var first, second [hashLen]byte
	kdf(&t.chainingKey, nil, &first, &second)
	return newAEAD(first), newAEAD(second)
}

// publicKey reads a public key of 32 bytes.
func publicKey(b []byte) *ecdh.PublicKey {
	k, err := ecdh.X25519().NewPublicKey(b)
	if err != nil {
		panic(err) // never so: the key has the right length
	}
	return k
}
