package wireguard

import (
	"crypto/cipher"
	"crypto/ecdh"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"

	"ginnel/key"
)

// The functions of section 5.4 and the transcript that both handshake messages are mixed into.
// Together they are Noise_IKpsk2. Curve25519 comes from crypto/ecdh directly, because
// x/crypto/curve25519 takes the private key as bytes and computes its public key in every call.

const (
	construction = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
	identifier   = "WireGuard v1 zx2c4 Jason@zx2c4.com"

	hashLen = blake2s.Size
)

// zeroNonce is the nonce of all fields of handshake messages, because each key there encrypts once.
var zeroNonce [chacha20poly1305.NonceSize]byte

// hmac returns Hmac(k, input), HMAC-BLAKE2s of RFC 2104, for inputs of up to hashLen+1 bytes. It
// replaces crypto/hmac, which allocates two hashes per call, because each side of a handshake makes
// 21 calls.
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

// kdf sets the outputs to Kdf_n(k, input), where n is the number of outputs. k may be one of them.
func kdf(k *[hashLen]byte, input []byte, outputs ...*[hashLen]byte) {
	secret := hmac(k, input)
	var b [hashLen + 1]byte // the previous output, then the number of this one
	n := 0
	for i, output := range outputs {
		b[n] = byte(i + 1)
		*output = hmac(&secret, b[:n+1])
		n = copy(b[:], output[:])
	}
}

// transcript is the state that both sides of a handshake share so far. Consuming a message works on
// a copy of the value; therefore a forged message does not change the original.
type transcript struct {
	chainingKey [hashLen]byte // C
	hash        [hashLen]byte // H
}

// initialTranscript is the transcript of every handshake before the responder's static key is mixed
// in.
var initialTranscript = func() transcript {
	t := transcript{chainingKey: blake2s.Sum256([]byte(construction))}
	t.hash = t.chainingKey
	t.mixHash([]byte(identifier))
	return t
}()

// newTranscript starts the transcript of a handshake with the given responder.
func newTranscript(responder key.NodePublic) transcript {
	t := initialTranscript
	t.mixHash(responder[:])
	return t
}

// mixHash sets H := Hash(H || b). b has up to 48 bytes, the length of the longest field.
func (t *transcript) mixHash(b []byte) {
	var joined [hashLen + key.Size + tagLen]byte
	n := copy(joined[:], t.hash[:])
	n += copy(joined[n:], b)
	t.hash = blake2s.Sum256(joined[:n])
}

// mixEphemeral mixes in the ephemeral public key of a message.
func (t *transcript) mixEphemeral(public []byte) {
	t.mixHash(public)
	t.mixKey(public)
}

// mixKey sets C := Kdf1(C, input).
func (t *transcript) mixKey(input []byte) { kdf(&t.chainingKey, input, &t.chainingKey) }

// mixSecret sets (C, k) := Kdf2(C, secret) and returns k, the key of the next field.
func (t *transcript) mixSecret(secret []byte) (k [hashLen]byte) {
	kdf(&t.chainingKey, secret, &t.chainingKey, &k)
	return k
}

// mixPreshared sets (C, tau, k) := Kdf3(C, psk) and H := Hash(H || tau), and returns k, the key of
// the next field.
func (t *transcript) mixPreshared(psk *[key.Size]byte) (k [hashLen]byte) {
	var tau [hashLen]byte
	kdf(&t.chainingKey, psk[:], &t.chainingKey, &tau, &k)
	t.mixHash(tau[:])
	return k
}

// mixDH sets C := Kdf1(C, DH(private, public)). It fails if public is a point of low order.
func (t *transcript) mixDH(private *ecdh.PrivateKey, public *ecdh.PublicKey) error {
	secret, err := private.ECDH(public)
	if err != nil {
		return err
	}
	t.mixKey(secret)
	return nil
}

// seal encrypts a field with the key k and H as additional data, and appends it to the message b.
func (t *transcript) seal(b []byte, k [hashLen]byte, plain []byte) []byte {
	n := len(b)
	b = newAEAD(k).Seal(b, zeroNonce[:], plain, t.hash[:])
	t.mixHash(b[n:])
	return b
}

// open decrypts a field into dst, which must have room for the plaintext.
func (t *transcript) open(dst []byte, k [hashLen]byte, field []byte) error {
	if _, err := newAEAD(k).Open(dst[:0], zeroNonce[:], field, t.hash[:]); err != nil {
		return err
	}
	t.mixHash(field)
	return nil
}

// transportKeys derives the transport keys (section 5.4.5): the one that the initiator sends with
// and the one that the responder sends with.
func (t *transcript) transportKeys() (initiator, responder cipher.AEAD) {
	var first, second [hashLen]byte
	kdf(&t.chainingKey, nil, &first, &second)
	return newAEAD(first), newAEAD(second)
}

// publicKey parses a public key of 32 bytes.
func publicKey(b []byte) *ecdh.PublicKey {
	k, err := ecdh.X25519().NewPublicKey(b)
	if err != nil {
		panic(err) // unreachable: the key has the right length
	}
	return k
}
