package wireguard

import (
	"crypto/ecdh"
	"encoding/binary"

	"golang.zx2c4.com/wireguard/tai64n"

	"ginnel/key"
)

// Offsets of the fields of an initiation, the first message (section 5.4.2).
const (
	initiationSender    = 4
	initiationEphemeral = 8
	initiationStatic    = initiationEphemeral + key.Size
	initiationTimestamp = initiationStatic + key.Size + tagLen
	initiationMACs      = initiationTimestamp + tai64n.TimestampSize + tagLen
)

// initiation is the initiator's state of a handshake. It does not change: every response is tried
// against a copy of the transcript.
type initiation struct {
	peer       *peer
	self       *identity
	localIndex uint32 // the sender index of the initiation

	ephemeral *ecdh.PrivateKey
	transcript
}

// createInitiation starts a handshake with p and returns the message with empty MACs. The ephemeral
// key must be new, and the timestamp later than that of the last initiation to p.
func (id *identity) createInitiation(
	p *peer, local uint32, ephemeral *ecdh.PrivateKey, timestamp tai64n.Timestamp,
) (*initiation, []byte, error) {
	ss, err := p.staticStatic(id)
	if err != nil {
		return nil, nil, err
	}
	es, err := ephemeral.ECDH(p.public)
	if err != nil {
		return nil, nil, err
	}
	i := &initiation{peer: p, self: id, localIndex: local, ephemeral: ephemeral, transcript: newTranscript(p.key)}
	b := make([]byte, 0, initiationLen)
	b = binary.LittleEndian.AppendUint32(b, typeInitiation)
	b = binary.LittleEndian.AppendUint32(b, local)
	b = append(b, ephemeral.PublicKey().Bytes()...)
	i.mixEphemeral(b[initiationEphemeral:])
	b = i.seal(b, i.mixSecret(es), id.public[:])
	b = i.seal(b, i.mixSecret(ss), timestamp[:])
	return i, b[:initiationLen], nil
}

// receivedInitiation is the responder's state of a handshake.
type receivedInitiation struct {
	remoteIndex uint32           // the sender index of the initiation
	static      key.NodePublic   // of the initiator; not authenticated before consumeTimestamp
	timestamp   tai64n.Timestamp // set by consumeTimestamp
	ephemeral   *ecdh.PublicKey
	transcript
}

// consumeStatic decrypts an initiation up to the initiator's static key, at the cost of one
// multiplication on the curve.
func (id *identity) consumeStatic(b []byte) (*receivedInitiation, error) {
	ephemeral := b[initiationEphemeral:initiationStatic]
	r := &receivedInitiation{
		remoteIndex: binary.LittleEndian.Uint32(b[initiationSender:]),
		ephemeral:   publicKey(ephemeral),
		transcript:  newTranscript(id.public),
	}
	es, err := id.private.ECDH(r.ephemeral)
	if err != nil {
		return nil, err
	}
	r.mixEphemeral(ephemeral)
	if err := r.open(r.static[:], r.mixSecret(es), b[initiationStatic:initiationTimestamp]); err != nil {
		return nil, err
	}
	return r, nil
}

// consumeTimestamp decrypts the timestamp. ss is the static-static secret. Without an error, the
// initiator is authenticated: it knows the private key of r.static.
func (r *receivedInitiation) consumeTimestamp(b, ss []byte) error {
	return r.open(r.timestamp[:], r.mixSecret(ss), b[initiationTimestamp:initiationMACs])
}
