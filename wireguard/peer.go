package wireguard

import (
	"crypto/ecdh"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tai64n"

	"ginnel/key"
)

// peer is the state of one peer.
type peer struct {
	key key.NodePublic

	prefixes []netip.Prefix // its allowed IPs; owned by Device.allowedIPs

	// The configuration, written by SetPeer; received messages also write endpoint.
	psk       atomic.Pointer[[key.Size]byte]
	keepalive atomic.Int64 // persistent keepalive interval in nanoseconds
	roams     atomic.Bool
	removed   atomic.Bool
	endpoint  atomic.Pointer[conn.Endpoint] // nil if unknown

	current atomic.Pointer[keypair] // see keypairs.go; nil if there is none

	mu       sync.Mutex // guards the keypairs below and staged, and is held to change current
	previous *keypair
	next     *keypair
	staged   staged

	requested atomic.Uint32 // request flags that runHandshakes has not handled; see Device.request

	timers

	handshakeTime atomic.Int64 // Unix time of the latest handshake in nanoseconds; written with mu held
	rx, tx        atomic.Uint64

	handshakeState
}

// handshakeState is the part of a peer that only runHandshakes uses. Times are on the device's
// clock, and 0 means none.
type handshakeState struct {
	initiation                *initiation // ours that has no response yet; nil if there is none
	lastSentHandshake         int64       // when we last sent an initiation or answered one
	retransmitHandshakeAt     int64       // when the next initiation is due
	attempts                  int         // initiations sent since the handshake was requested
	lastInitiationConsumption int64       // when we last answered an initiation of the peer
	lastKeypair               int64       // when the newest keypair was made; 0 if none is left
	lane                      int         // of the Bind, in which the peer's messages arrive; see lanes
	cookies                   device.CookieGenerator
	lastTimestamp             tai64n.Timestamp // greatest of the peer's initiations; replays are not greater
	public                    *ecdh.PublicKey  // static key of the peer
	staticSecret              []byte           // DH of both static keys; see staticStatic
	staticSecretOf            *identity        // our key that staticSecret belongs to; nil if there is none yet
}

func newPeer(k key.NodePublic) *peer {
	p := &peer{key: k, handshakeState: handshakeState{lane: noLane, public: publicKey(k[:])}}
	p.cookies.Init(device.NoisePublicKey(k))
	return p
}

func (p *peer) state() PeerState {
	s := PeerState{Rx: p.rx.Load(), Tx: p.tx.Load()}
	if ep := p.endpoint.Load(); ep != nil {
		s.Endpoint = (*ep).DstToString()
	}
	if t := p.handshakeTime.Load(); t != 0 {
		s.Handshake = time.Unix(0, t)
	}
	return s
}

// setEndpoint records where the latest valid message of the peer came from.
func (p *peer) setEndpoint(ep conn.Endpoint) {
	if old := p.endpoint.Load(); old != nil && *old == ep {
		return
	}
	p.endpoint.Store(&ep)
}

// stage keeps copies of packets until there is a keypair, and returns how many packets it
// discarded.
func (p *peer) stage(bufs [][]byte, sizes []int) (dropped int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed.Load() {
		return len(bufs)
	}
	for i, b := range bufs {
		dropped += p.staged.add(b[headerLen : headerLen+sizes[i]])
	}
	return dropped
}

// unstage removes and returns the staged packets, which the caller then owns.
func (p *peer) unstage() [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.staged.take()
}

func (p *peer) hasStaged() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.staged.packets) > 0
}

// staticStatic returns DH(our static key, the peer's static key). It is computed once per key of
// ours. Only runHandshakes calls it.
func (p *peer) staticStatic(id *identity) ([]byte, error) {
	if p.staticSecretOf != id {
		secret, err := id.private.ECDH(p.public)
		if err != nil {
			return nil, err
		}
		p.staticSecret, p.staticSecretOf = secret, id
	}
	return p.staticSecret, nil
}
