// Package wireguard implements the WireGuard protocol as its whitepaper describes it
// (https://www.wireguard.com/papers/wireguard.pdf): handshakes, transport keys, timers, cookies and
// cryptokey routing. Section numbers in comments are those of the whitepaper. IP packets come from
// and go to a Tun; WireGuard messages go to and come from a Bind.
//
// A packet stays in one goroutine. The goroutine that produced an outgoing packet encrypts it in
// place and sends it (send.go). The goroutine that received a message decrypts it in place and
// writes the packet to the Tun (receive.go). Therefore packets are not reordered, buffers do not
// change owners, and no step has to wake another goroutine. On several processors, incoming
// messages are spread over the lanes of the Bind (lanes.go) and outgoing packets over the queues of
// the Tun. Each lane and each queue has a goroutine of its own.
//
// Goroutines: one transmit per queue of the Tun, which sends when many packets wait (send.go); and
// runHandshakes, which owns all handshakes and timers (loop.go). Packets do not pass through
// runHandshakes, except those that were staged until a keypair existed. Close ends all of them.
// Messages are received by goroutines of the Bind. They also drop the handshake messages that are
// forged or exceed a rate limit, before runHandshakes sees them (admission.go).
package wireguard

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"ginnel/key"
)

// Tun is the source of outgoing IP packets and the sink of incoming ones.
type Tun interface {
	// Queues returns the queues of outgoing packets: at least one, and the same ones in every call.
	// The Tun chooses the queue by the destination address, because only packets of one queue stay
	// in order. Each queue is drained by one goroutine at a time, which encrypts and sends.
	Queues() []Queue
	// Write takes whole incoming IP packets, each starting at offset, and does not keep the
	// buffers.
	Write(bufs [][]byte, offset int) (int, error)
	BatchSize() int // number of packets that are best passed in one call
	MTU() int       // length of the largest packet, in bytes
	Close() error
}

// Queue is a queue of outgoing IP packets of a Tun.
type Queue interface {
	// Notify registers ready. The goroutine that queues a packet calls ready afterwards.
	Notify(ready func())
	// Waiting returns roughly the number of bytes that are queued. It returns 0 only if the queue
	// is empty.
	Waiting() int
	// Read fills bufs with whole IP packets, each starting at offset, and returns their number. It
	// does not block. Only one goroutine at a time calls it.
	Read(bufs [][]byte, sizes []int, offset int) int
}

// Bind sends and receives WireGuard messages.
type Bind interface {
	// Lanes returns the number of lanes in which transport data messages arrive. It is a power of
	// two and never changes. Messages whose receiver indices are equal modulo Lanes arrive in order
	// and in one goroutine.
	Lanes() int
	// Open starts receiving. Each call of receive passes messages of one sender, whose buffers
	// receive may overwrite until it returns. Several goroutines may call receive at the same time.
	Open(receive func(messages [][]byte, from conn.Endpoint)) error
	// Send sends messages to one endpoint, in order. Calls with different lanes do not wait for
	// each other. The lane is 0 or more, and may exceed Lanes.
	Send(lane int, messages [][]byte, to conn.Endpoint) error
	// Close stops receiving. After it returns, receive is not called again, except for calls that
	// return immediately.
	Close() error
}

// Peer is the configuration of a peer.
type Peer struct {
	Key          key.NodePublic
	PresharedKey key.Preshared // zero means none
	// AllowedIPs are the source addresses that the peer may use and the destinations that are
	// routed to it. If several peers claim the same prefix, the peer that was set last has it.
	AllowedIPs []netip.Prefix
	Keepalive  time.Duration // persistent keepalive interval; zero means none

	// Endpoint is the address of the peer. If it is nil, the peer keeps the endpoint it has; a peer
	// without one gets it from the first valid initiation that it sends.
	Endpoint conn.Endpoint
	// Roams makes the endpoint follow the sender of the latest valid message of the peer.
	Roams bool
}

// PeerState is what the device knows about a peer at run time.
type PeerState struct {
	Endpoint  string    // in the notation of the Bind; empty if unknown
	Handshake time.Time // when the latest handshake completed; zero if there was none
	Rx, Tx    uint64    // total bytes of valid messages received, and of messages sent
}

// Device is a WireGuard interface. New makes one.
type Device struct {
	tun  Tun
	bind Bind
	log  *slog.Logger
	mtu  int

	start      time.Time // zero point of the device's clock; see now
	self       atomic.Pointer[identity]
	allowedIPs allowedIPs
	indices    table[uint32, indexEntry] // by receiver index
	peers      table[key.NodePublic, *peer]
	lanes      lanes // owned by runHandshakes

	inboundPool sync.Pool // of *inbound
	admission   admission

	mu        sync.Mutex // serialises changes of peers, Up and Close
	up        bool
	outbounds []*outbound // one per queue of the Tun
	requests  requests    // to runHandshakes
	closec    chan struct{}
	once      sync.Once
	wg        sync.WaitGroup

	drops
}

// drops counts dropped packets and messages by reason; see Dropped.
type drops struct {
	unroutable atomic.Uint64
	foreign    atomic.Uint64
	bogus      atomic.Uint64
	noRoom     atomic.Uint64
}

// indexEntry is what a receiver index of ours refers to: a keypair or, if keypair is nil, our own
// initiation that peer has not answered yet.
type indexEntry struct {
	keypair *keypair
	peer    *peer // nil if keypair is set
}

// identity is our static key pair and the values derived from it.
type identity struct {
	private *ecdh.PrivateKey
	public  key.NodePublic
	mac1Key [blake2s.Size]byte   // Hash(Label-Mac1 || public), section 5.4.4
	cookies device.CookieChecker // verifies MAC2 and creates cookie replies
}

func newIdentity(k key.NodePrivate) *identity {
	raw := k.Raw()
	private, err := ecdh.X25519().NewPrivateKey(raw[:])
	if err != nil {
		panic(err) // unreachable: the key has the right length
	}
	id := &identity{private: private, public: k.Public()}
	id.mac1Key = blake2s.Sum256(append([]byte(device.WGLabelMAC1), id.public[:]...))
	id.cookies.Init(device.NoisePublicKey(id.public))
	return id
}

// New makes a device without peers. It neither sends nor receives before Up.
func New(tun Tun, bind Bind, k key.NodePrivate, log *slog.Logger) *Device {
	d := &Device{tun: tun, bind: bind, log: log, mtu: tun.MTU(), start: time.Now(), closec: make(chan struct{})}
	d.inboundPool.New = func() any { return &inbound{d: d} }
	d.lanes = make(lanes, bind.Lanes())
	d.indices.part = func(n uint32) byte { return byte(n >> 24) } // the low bits name the lane and are not random
	d.peers.part = func(k key.NodePublic) byte { return k[0] }
	d.allowedIPs.init()
	d.outbounds = newOutbounds(d)
	d.requests.init()
	d.admission.init()
	d.SetKey(k)
	return d
}

// now returns the time on the device's own clock: nanoseconds since New. It is never 0, because 0
// means "none" wherever such a time is stored.
func (d *Device) now() int64 { return int64(time.Since(d.start)) + 1 }

// SetKey replaces our static key. All keypairs are dropped unless the key is the same.
func (d *Device) SetKey(k key.NodePrivate) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := newIdentity(k)
	if old := d.self.Load(); old != nil && old.public == id.public {
		return
	}
	d.self.Store(id)
	for _, p := range d.peers.all() {
		d.dropKeypairs(p)
		d.request(p, reqReset)
	}
}

// Up opens the bind and starts the goroutines of the device. Handshakes that were requested before
// start now.
func (d *Device) Up() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.isClosed():
		return net.ErrClosed
	case d.up:
		return nil
	}
	if err := d.bind.Open(d.receive); err != nil {
		return fmt.Errorf("wireguard: opening the bind: %w", err)
	}
	d.up = true
	for _, o := range d.outbounds {
		o.queue.Notify(o.sendReady)
		d.wg.Go(o.transmit)
	}
	d.wg.Go(d.runHandshakes)
	return nil
}

// SetPeer adds a peer, or changes the configuration of one. Keypairs of an existing peer stay in
// use.
func (d *Device) SetPeer(c Peer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.peer(c.Key)
	if !ok {
		p = newPeer(c.Key)
	}
	p.roams.Store(c.Roams)
	if c.Endpoint != nil {
		p.endpoint.Store(&c.Endpoint)
	}
	psk := c.PresharedKey.Raw()
	p.psk.Store(&psk)
	p.keepalive.Store(int64(c.Keepalive))
	d.allowedIPs.set(p, c.AllowedIPs)
	d.peers.set(c.Key, p)
	if c.Keepalive > 0 {
		d.request(p, reqCheckTimers)
	}
}

// SetEndpoint sets the endpoint of a peer. It does nothing if there is no such peer.
func (d *Device) SetEndpoint(k key.NodePublic, ep conn.Endpoint) {
	if p, ok := d.peer(k); ok {
		p.endpoint.Store(&ep)
	}
}

// RemovePeer removes a peer with its keypairs, staged packets and allowed IPs.
func (d *Device) RemovePeer(k key.NodePublic) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.peer(k)
	if !ok {
		return
	}
	d.peers.remove(k, p)
	d.allowedIPs.remove(p)
	p.removed.Store(true)
	d.noRoom.Add(uint64(len(p.unstage())))
	d.dropKeypairs(p)
	d.request(p, reqReset)
}

// ExpireKeypairs stops sending with the keypairs of a peer: the next packet to it, or one that is
// already staged, starts a handshake. Messages under the old keypairs are still accepted.
func (d *Device) ExpireKeypairs(k key.NodePublic) {
	if p, ok := d.peer(k); ok {
		p.closeKeypairs()
		d.request(p, reqReset)
	}
}

// StartHandshake expires the keypairs of a peer and starts a handshake at once: it waits neither
// for a packet nor for the end of Rekey-Timeout. Exceptions apply to messages that arrive before
// runHandshakes handles the request: a response makes the handshake unnecessary, and after an
// initiation of the peer our own waits for Rekey-Timeout.
func (d *Device) StartHandshake(k key.NodePublic) {
	if p, ok := d.peer(k); ok {
		p.closeKeypairs()
		d.request(p, reqReset|reqHandshake)
	}
}

// PeerStates returns the state of all peers.
func (d *Device) PeerStates() map[key.NodePublic]PeerState {
	all := make(map[key.NodePublic]PeerState)
	for k, p := range d.peers.all() {
		all[k] = p.state()
	}
	return all
}

// PeerState returns the state of a peer. It reports false if there is no such peer.
func (d *Device) PeerState(k key.NodePublic) (PeerState, bool) {
	p, ok := d.peer(k)
	if !ok {
		return PeerState{}, false
	}
	return p.state(), true
}

// Dropped counts dropped packets and messages by reason.
type Dropped struct {
	// Unroutable counts outgoing packets whose destination is in the allowed IPs of no peer.
	Unroutable uint64
	// Foreign counts incoming packets whose source is not in the allowed IPs of the peer.
	Foreign uint64
	// Bogus counts messages that are malformed, do not authenticate, refer to no keypair or
	// initiation of ours, or were received before.
	Bogus uint64
	// NoRoom counts staged packets that were discarded, and handshake messages above a rate limit.
	NoRoom uint64
}

// Dropped returns the counters since New.
func (d *Device) Dropped() Dropped {
	return Dropped{
		Unroutable: d.unroutable.Load(), Foreign: d.foreign.Load(), Bogus: d.bogus.Load(), NoRoom: d.noRoom.Load(),
	}
}

func (d *Device) peer(k key.NodePublic) (*peer, bool) {
	p := d.peers.get(k)
	return p, p != nil
}

// Done returns a channel that is closed when Close is called.
func (d *Device) Done() <-chan struct{} { return d.closec }

func (d *Device) isClosed() bool {
	select {
	case <-d.closec:
		return true
	default:
		return false
	}
}

// Close closes the device, its Tun and its Bind.
func (d *Device) Close() (err error) {
	d.once.Do(func() {
		d.mu.Lock() // an Up that is running has then started all goroutines; a later one finds the device closed
		close(d.closec)
		d.mu.Unlock()
		// The Tun comes first, because a receiving goroutine may block until the Tun has room.
		err = errors.Join(d.tun.Close(), d.bind.Close())
	})
	d.wg.Wait()
	return err
}
