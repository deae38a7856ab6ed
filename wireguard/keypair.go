package wireguard

import (
	"crypto/cipher"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/replay"
)

// keypair is one session with a peer. Any goroutine may send by it, and receive.
type keypair struct {
	peer          *peer
	self          *identity // of ours
	local, remote uint32    // numbers of the session, as we and the peer gave them
	send, recv    cipher.AEAD
	created       int64 // on the device's clock
	initiator     bool  // we began it

	counter atomic.Uint64 // of the next message to be sent
	dropped atomic.Bool   // the session is over
	asked   atomic.Bool   // for the next session, by the receiver

	mu   sync.Mutex
	seen replay.Filter // counters of what was received
}

// nonce is room for one. It is its user's, for one on the stack would not stay there.
type nonce [chacha20poly1305.NonceSize]byte

func newAEAD(k [32]byte) cipher.AEAD {
	a, err := chacha20poly1305.New(k[:])
	if err != nil {
		panic(err) // never so: the key has the right length
	}
	return a
}

// usable reports whether anything may be sent.
func (k *keypair) usable(now int64) bool {
	return now-k.created < rejectAfter && k.counter.Load() < rejectAfterMessages
}

// aging reports whether it is time for the next session.
func (k *keypair) aging(now int64) bool {
	return k.initiator && now-k.created >= rekeyAfter || k.counter.Load() >= rekeyAfterMessages
}

// reserve returns the counter of the first of n messages, and false if there are not as many left.
func (k *keypair) reserve(n int) (uint64, bool) {
	last := k.counter.Add(uint64(n))
	if last > rejectAfterMessages || last < uint64(n) {
		k.counter.Store(rejectAfterMessages)
		return 0, false
	}
	return last - uint64(n), true
}

// seal makes the plaintext in b[headerLen:headerLen+n] a message and returns it. b has room for the
// tag and the padding.
func (k *keypair) seal(b []byte, n, mtu int, counter uint64, nonce *nonce) []byte {
	padded := max(n, min((n+padding-1)&^(padding-1), mtu))
	clear(b[headerLen+n : headerLen+padded])
	binary.LittleEndian.PutUint32(b, typeData)
	binary.LittleEndian.PutUint32(b[4:], k.remote)
	binary.LittleEndian.PutUint64(b[8:], counter)
	binary.LittleEndian.PutUint64(nonce[4:], counter)
	return k.send.Seal(b[:headerLen], nonce[:], b[headerLen:headerLen+padded], nil)
}

// open decrypts the message b in place and returns the plaintext, which follows the header. It
// reports false for what is not the peer's, or came before.
func (k *keypair) open(b []byte, nonce *nonce) ([]byte, bool) {
	counter := binary.LittleEndian.Uint64(b[8:])
	if counter >= rejectAfterMessages {
		return nil, false
	}
	copy(nonce[4:], b[8:headerLen])
	plain, err := k.recv.Open(b[headerLen:headerLen], nonce[:], b[headerLen:], nil)
	if err != nil {
		return nil, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return plain, k.seen.ValidateCounter(counter, rejectAfterMessages)
}
