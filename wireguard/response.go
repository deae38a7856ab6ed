package wireguard

import (
	"crypto/ecdh"
	"encoding/binary"

	"ginnel/key"
)

// Offsets of the fields of a response, the second message (section 5.4.3).
const (
	responseSender    = 4
	responseReceiver  = 8
	responseEphemeral = 12
	responseEmpty     = responseEphemeral + key.Size
	responseMACs      = responseEmpty + tagLen
)

// createResponse makes the responder's keypair, and the response with empty MACs. The ephemeral key
// must be new.
func (r *receivedInitiation) createResponse(
	p *peer, id *identity, local uint32, ephemeral *ecdh.PrivateKey, now int64,
) (*keypair, []byte, error) {
	b := make([]byte, 0, responseLen)
	b = binary.LittleEndian.AppendUint32(b, typeResponse)
	b = binary.LittleEndian.AppendUint32(b, local)
	b = binary.LittleEndian.AppendUint32(b, r.remoteIndex)
	b = append(b, ephemeral.PublicKey().Bytes()...)
	t := r.transcript
	t.mixEphemeral(b[responseEphemeral:])
	if err := t.mixDH(ephemeral, r.ephemeral); err != nil {
		return nil, nil, err
	}
	if err := t.mixDH(ephemeral, p.public); err != nil {
		return nil, nil, err
	}
	b = t.seal(b, t.mixPreshared(p.psk.Load()), nil)
	k := &keypair{peer: p, self: id, localIndex: local, remoteIndex: r.remoteIndex, created: now}
	k.recv, k.send = t.transportKeys()
	return k, b[:responseLen], nil
}

// consumeResponse makes the initiator's keypair. A response that is refused changes nothing,
// because the genuine one may still arrive.
func (i *initiation) consumeResponse(b []byte, now int64) (*keypair, error) {
	public := b[responseEphemeral:responseEmpty]
	ephemeral := publicKey(public)
	t := i.transcript
	t.mixEphemeral(public)
	if err := t.mixDH(i.ephemeral, ephemeral); err != nil {
		return nil, err
	}
	if err := t.mixDH(i.self.private, ephemeral); err != nil {
		return nil, err
	}
	if err := t.open(nil, t.mixPreshared(i.peer.psk.Load()), b[responseEmpty:responseMACs]); err != nil {
		return nil, err
	}
	k := &keypair{
		peer: i.peer, self: i.self, localIndex: i.localIndex,
		remoteIndex: binary.LittleEndian.Uint32(b[responseSender:]), created: now, isInitiator: true,
	}
	k.send, k.recv = t.transportKeys()
	return k, nil
}
