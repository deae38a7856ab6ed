package wireguard

import (
	"crypto/cipher"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/replay"
)

// keypair holds the two transport keys that a handshake yields (section 5.4.5). The whitepaper
// calls the time in which they are used a session. Any goroutine may send and receive with a
// keypair.
type keypair struct {
	peer        *peer
	self        *identity // our static key in the handshake
	localIndex  uint32    // receiver index of messages to us
	remoteIndex uint32    // receiver index of messages to the peer
	send, recv  cipher.AEAD
	created     int64 // on the device's clock
	isInitiator bool  // we initiated the handshake

	state          atomic.Uint32 // a keypairState
	sendCounter    atomic.Uint64 // counter of the next message to be sent
	rekeyRequested atomic.Bool   // inbound has requested the next handshake; once per keypair

	mu     sync.Mutex
	replay replay.Filter // of received counters
}

// keypairState says what a keypair may be used for. It only ever increases:
//
//	keypairOpen ──ExpireKeypairs, counter used up──► keypairClosed ──► keypairDropped
type keypairState = uint32

const (
	keypairOpen    keypairState = iota // sends and receives
	keypairClosed                      // receives, because messages may still be on their way
	keypairDropped                     // does neither; its receiver index is free again
)

// nonce is a buffer for an AEAD nonce. Each goroutine keeps one, because a nonce on the stack would
// escape to the heap with every call of the AEAD.
type nonce [chacha20poly1305.NonceSize]byte

func newAEAD(k [32]byte) cipher.AEAD {
	a, err := chacha20poly1305.New(k[:])
	if err != nil {
		panic(err) // unreachable: the key has the right length
	}
	return a
}

// close ends sending. Receiving goes on.
func (k *keypair) close() { k.state.CompareAndSwap(keypairOpen, keypairClosed) }

// canSend reports whether the keypair is open and below Reject-After-Time and
// Reject-After-Messages (section 6.2).
func (k *keypair) canSend(now int64) bool {
	return k.state.Load() == keypairOpen && now-k.created < rejectAfterTime && k.sendCounter.Load() < rejectAfterMessages
}

// canReceive reports whether the keypair is not dropped and below Reject-After-Time.
func (k *keypair) canReceive(now int64) bool {
	return k.state.Load() != keypairDropped && now-k.created < rejectAfterTime
}

// needsRekey reports whether the keypair has reached Rekey-After-Messages or, on the initiator,
// Rekey-After-Time. Only the initiator counts the time, so that the two sides do not both start the
// next handshake (section 6.2).
func (k *keypair) needsRekey(now int64) bool {
	return k.isInitiator && now-k.created >= rekeyAfterTime || k.sendCounter.Load() >= rekeyAfterMessages
}

// reserveCounters returns the first of n consecutive counters. If fewer than n are left below
// Reject-After-Messages, it closes the keypair and reports false.
func (k *keypair) reserveCounters(n int) (uint64, bool) {
	end := k.sendCounter.Add(uint64(n))
	if end > rejectAfterMessages || end < uint64(n) {
		k.sendCounter.Store(rejectAfterMessages) // keeps later calls from wrapping around
		k.close()
		return 0, false
	}
	return end - uint64(n), true
}

// seal encrypts the plaintext in b[headerLen:headerLen+n] in place and returns the transport data
// message (section 5.4.6). b needs room for the padding and the tag.
func (k *keypair) seal(b []byte, n, mtu int, counter uint64, nonce *nonce) []byte {
	padded := max(n, min((n+paddingMultiple-1)&^(paddingMultiple-1), mtu))
	clear(b[headerLen+n : headerLen+padded])
	binary.LittleEndian.PutUint32(b, typeTransport)
	binary.LittleEndian.PutUint32(b[transportReceiver:], k.remoteIndex)
	binary.LittleEndian.PutUint64(b[transportCounter:], counter)
	binary.LittleEndian.PutUint64(nonce[4:], counter)
	return k.send.Seal(b[:headerLen], nonce[:], b[headerLen:headerLen+padded], nil)
}

// open decrypts the transport data message b in place and returns the plaintext, which follows the
// header. It reports false if the message does not authenticate or is a replay.
func (k *keypair) open(b []byte, nonce *nonce) ([]byte, bool) {
	counter := binary.LittleEndian.Uint64(b[transportCounter:])
	if counter >= rejectAfterMessages {
		return nil, false
	}
	copy(nonce[4:], b[transportCounter:headerLen])
	plain, err := k.recv.Open(b[headerLen:headerLen], nonce[:], b[headerLen:], nil)
	if err != nil {
		return nil, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return plain, k.replay.ValidateCounter(counter, rejectAfterMessages)
}
