package wireguard

import (
	"crypto/ecdh"
	"encoding/binary"

	"ginnel/internal/key"
)

// The second message (section 5.4.3), by the offsets of its fields, and the session that follows
// from it.
const (
	responseSender    = 4
	responseReceiver  = 8
	responseEphemeral = 12
	responseEmpty     = responseEphemeral + key.Size
	responseMACs      = responseEmpty + tagLen
)

// answer makes the session of an initiation that has been read, and the response without the MACs.
func (r *received) answer(
	p *peer, id *identity, local uint32, ephemeral *ecdh.PrivateKey, now int64,
) (*keypair, []byte, error) {
	b := make([]byte, 0, responseLen)
	b = binary.LittleEndian.AppendUint32(b, typeResponse)
	b = binary.LittleEndian.AppendUint32(b, local)
	b = binary.LittleEndian.AppendUint32(b, r.index)
	b = append(b, ephemeral.PublicKey().Bytes()...)
	t := r.transcript
	t.mixEphemeral(b[responseEphemeral:])
	if err := t.mixExchange(ephemeral, r.ephemeral); err != nil {
		return nil, nil, err
	}
	if err := t.mixExchange(ephemeral, p.public); err != nil {
		return nil, nil, err
	}
	b = t.seal(b, t.mixPreshared(p.psk.Load()), nil)
	k := &keypair{peer: p, self: id, local: local, remote: r.index, created: now}
	k.recv, k.send = t.session()
	return k, b[:responseLen], nil
}

// complete makes the session of a response. A response that is refused changes nothing: the genuine
// one may still come.
func (i *initiation) complete(b []byte, now int64) (*keypair, error) {
	public := b[responseEphemeral:responseEmpty]
	ephemeral := publicKey(public)
	t := i.transcript
	t.mixEphemeral(public)
	if err := t.mixExchange(i.ephemeral, ephemeral); err != nil {
		return nil, err
	}
	if err := t.mixExchange(i.self.private, ephemeral); err != nil {
		return nil, err
	}
	if err := t.open(nil, t.mixPreshared(i.peer.psk.Load()), b[responseEmpty:responseMACs]); err != nil {
		return nil, err
	}
	k := &keypair{
		peer: i.peer, self: i.self, local: i.local, remote: binary.LittleEndian.Uint32(b[responseSender:]),
		created: now, initiator: true,
	}
	k.send, k.recv = t.session()
	return k, nil
}
