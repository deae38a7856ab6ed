package wireguard

import (
	"crypto/subtle"
	"encoding/binary"
	"hash"

	"golang.org/x/crypto/blake2s"
	"golang.zx2c4.com/wireguard/conn"
)

// MAC1 and cookie replies (sections 5.4.4 and 5.4.7). MAC2 and the cookies themselves are those of
// wireguard-go, see identity.cookies and handshakeState.cookies.

// mac1Checker verifies MAC1s. It keeps its hash, so that a flood of invalid messages allocates
// nothing. One goroutine at a time uses it.
type mac1Checker struct {
	id   *identity // whose key hash is keyed with
	hash hash.Hash
	sum  [blake2s.Size128]byte
}

// valid reports whether b, an initiation or a response, has the MAC1 of a message to id.
func (m *mac1Checker) valid(id *identity, b []byte) bool {
	if m.id != id {
		h, err := blake2s.New128(id.mac1Key[:])
		if err != nil {
			panic(err) // unreachable: the key has the right length
		}
		m.id, m.hash = id, h
	}
	m.hash.Reset()
	m.hash.Write(b[:len(b)-macsLen])
	want := m.hash.Sum(m.sum[:0])
	return subtle.ConstantTimeCompare(want, b[len(b)-macsLen:len(b)-mac2Len]) == 1
}

// sendCookieReply answers the handshake message b with a cookie reply.
func (d *Device) sendCookieReply(id *identity, b []byte, to conn.Endpoint) {
	// The sender index is at the same offset in initiations and responses.
	sender := binary.LittleEndian.Uint32(b[initiationSender:])
	reply, err := id.cookies.CreateReply(b, sender, to.DstToBytes())
	if err != nil {
		return
	}
	message, err := binary.Append(make([]byte, 0, cookieReplyLen), binary.LittleEndian, reply)
	if err != nil {
		panic(err) // unreachable: a reply has a fixed size
	}
	d.bind.Send(0, [][]byte{message}, to)
}
