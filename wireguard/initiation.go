package wireguard

import (
	"crypto/ecdh"
	"encoding/binary"

	"golang.zx2c4.com/wireguard/tai64n"

	"ginnel/internal/key"
)

// The first message (section 5.4.2), by the offsets of its fields.
const (
	initiationSender    = 4
	initiationEphemeral = 8
	initiationStatic    = initiationEphemeral + key.Size
	initiationTimestamp = initiationStatic + key.Size + tagLen
	initiationMACs      = initiationTimestamp + tai64n.TimestampSize + tagLen
)

// initiation is a handshake that we began. It does not change: each response is tried against it.
type initiation struct {
	peer  *peer
	self  *identity
	local uint32 // receiver index that we gave it

	ephemeral *ecdh.PrivateKey
	transcript
}

// newInitiation begins a handshake with p and returns its first message without the MACs. No two
// may have the same ephemeral key, and p takes none whose stamp is not later than the one before.
func (id *identity) newInitiation(
	p *peer, local uint32, ephemeral *ecdh.PrivateKey, stamp tai64n.Timestamp,
) (*initiation, []byte, error) {
	static, err := p.staticShared(id)
	if err != nil {
		return nil, nil, err
	}
	secret, err := ephemeral.ECDH(p.public)
	if err != nil {
		return nil, nil, err
	}
	i := &initiation{peer: p, self: id, local: local, ephemeral: ephemeral, transcript: newTranscript(p.key)}
	b := make([]byte, 0, initiationLen)
	b = binary.LittleEndian.AppendUint32(b, typeInitiation)
	b = binary.LittleEndian.AppendUint32(b, local)
	b = append(b, ephemeral.PublicKey().Bytes()...)
	i.mixEphemeral(b[initiationEphemeral:])
	b = i.seal(b, i.mixSecret(secret), id.public[:])
	b = i.seal(b, i.mixSecret(static), stamp[:])
	return i, b[:initiationLen], nil
}

// received is an initiation of somebody else, as far as it has been read.
type received struct {
	index     uint32         // that the initiator gave it
	from      key.NodePublic // static key of the initiator; proven once the timestamp is read
	stamp     tai64n.Timestamp
	ephemeral *ecdh.PublicKey
	transcript
}

// readStatic reads a first message up to the initiator's static key, which costs one
// multiplication.
func (id *identity) readStatic(b []byte) (*received, error) {
	ephemeral := b[initiationEphemeral:initiationStatic]
	r := &received{
		index:      binary.LittleEndian.Uint32(b[initiationSender:]),
		ephemeral:  publicKey(ephemeral),
		transcript: newTranscript(id.public),
	}
	secret, err := id.private.ECDH(r.ephemeral)
	if err != nil {
		return nil, err
	}
	r.mixEphemeral(ephemeral)
	if err := r.open(r.from[:], r.mixSecret(secret), b[initiationStatic:initiationTimestamp]); err != nil {
		return nil, err
	}
	return r, nil
}

// readTimestamp reads the rest. static is the secret that we share with the static key. Without an
// error the initiator has that key.
func (r *received) readTimestamp(b, static []byte) error {
	return r.open(r.stamp[:], r.mixSecret(static), b[initiationTimestamp:initiationMACs])
}
