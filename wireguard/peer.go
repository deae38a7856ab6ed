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

	"ginnel/internal/key"
)

// peer is the other end of sessions.
type peer struct {
	key key.NodePublic

	allowed []netip.Prefix // owned by routes

	// What Peer says; changed by SetPeer.
	psk       atomic.Pointer[[key.Size]byte]
	keepalive atomic.Int64 // nanoseconds
	roams     atomic.Bool
	removed   atomic.Bool
	endpoint  atomic.Pointer[conn.Endpoint] // nil: unknown

	current atomic.Pointer[keypair] // to send by; nil: none

	mu       sync.Mutex // held while sessions change, and for staged
	previous *keypair   // what is on its way may still come by it
	next     *keypair   // of a handshake that the peer began; current once it is used
	staged   staged     // what waits for a session

	asks atomic.Uint32 // what loop is asked for; see ask

	// Times on the device's clock, 0 for none, of what is due unless something happens before.
	answerDue    atomic.Int64 // a new session, for nothing came back
	keepaliveDue atomic.Int64 // a keepalive, for nothing was sent back
	lastMessage  atomic.Int64 // that was sent or received

	handshaken atomic.Int64 // Unix time of the last handshake, in nanoseconds; changed with mu held
	rx, tx     atomic.Uint64

	attempt // of loop
}

// attempt is what loop knows of a peer, and nobody else.
type attempt struct {
	pending   *initiation // waits for its response; nil: none
	began     int64       // when it was sent, or an initiation of the peer answered
	retryAt   int64       // when it is given up for another
	attempts  int         // since somebody asked
	lastTaken int64       // when an initiation of the peer was last answered
	derived   int64       // when the last session came about; 0: none is left
	lane      int         // of the bind, by which its messages come; see lanes
	cookies   device.CookieGenerator
	newest    tai64n.Timestamp // of its initiations so far: older ones were seen
	public    *ecdh.PublicKey  // its static key
	static    staticSecret
}

func newPeer(k key.NodePublic) *peer {
	p := &peer{key: k, attempt: attempt{lane: noLane, public: publicKey(k[:])}}
	p.cookies.Init(device.NoisePublicKey(k))
	return p
}

func (p *peer) session() Session {
	s := Session{Rx: p.rx.Load(), Tx: p.tx.Load()}
	if ep := p.endpoint.Load(); ep != nil {
		s.Endpoint = (*ep).DstToString()
	}
	if t := p.handshaken.Load(); t != 0 {
		s.Handshake = time.Unix(0, t)
	}
	return s
}

// stage keeps copies of packets until there is a session, and returns how many had to go for that.
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

// unstage returns what was staged, which is the caller's from then on.
func (p *peer) unstage() [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.staged.take()
}

// waiting reports whether packets wait for a session.
func (p *peer) waiting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.staged.packets) > 0
}

// expire ends sending by the present sessions.
func (p *peer) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range []*keypair{p.current.Load(), p.next} {
		if k != nil {
			k.counter.Store(rejectAfterMessages)
		}
	}
}

// received notes that a message has authenticated.
func (p *peer) received(now int64, bytes int) {
	p.rx.Add(uint64(bytes))
	p.lastMessage.Store(now)
	if p.answerDue.Load() != 0 {
		p.answerDue.Store(0)
	}
}

// receivedData notes that one of them held a packet.
func (p *peer) receivedData(now int64) {
	if p.keepaliveDue.Load() == 0 {
		p.keepaliveDue.Store(now + keepaliveIn)
	}
}

// sent notes that a message leaves.
func (p *peer) sent(now int64) {
	p.lastMessage.Store(now)
	if p.keepaliveDue.Load() != 0 {
		p.keepaliveDue.Store(0)
	}
}

// sentData notes that one of them held a packet.
func (p *peer) sentData(now int64) {
	if p.answerDue.Load() == 0 {
		p.answerDue.Store(now + keepaliveIn + rekeyTimeout + jitter())
	}
}

// staticSecret is what our static key and the peer's have in common.
type staticSecret struct {
	self   *identity // whose it is; nil: none yet
	secret []byte
}

// staticShared returns it. It is computed once for each key of ours. Only loop calls it.
func (p *peer) staticShared(id *identity) ([]byte, error) {
	if p.static.self != id {
		secret, err := id.private.ECDH(p.public)
		if err != nil {
			return nil, err
		}
		p.static = staticSecret{id, secret}
	}
	return p.static.secret, nil
}

// waitForPeer puts off a handshake of our own, because we have just answered one of the peer.
func (p *peer) waitForPeer(now int64) {
	p.began = now
	if p.retryAt != 0 {
		p.retryAt = now + rekeyTimeout + jitter()
	}
}

// needsSession reports whether there is no session to send by, or one that is to be replaced.
func (p *peer) needsSession(now int64) bool {
	k := p.current.Load()
	return k == nil || !k.usable(now) || k.aging(now)
}

// isAnswered reports whether the peer may send by a session any moment, because we have answered it
// and nobody has asked for another since.
func (p *peer) isAnswered(now int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next != nil && p.next.usable(now)
}
