// Package wireguard is the WireGuard protocol (https://www.wireguard.com/papers/wireguard.pdf):
// handshakes, sessions, timers, and which peer an address belongs to. Packets come from and go to a
// Tun, messages to and from a Bind.
//
// A packet stays in one goroutine. What the Tun has is encrypted in place and sent by the goroutine
// that made it (send.go); what the bind brings is decrypted in place and written to the Tun by the
// goroutine that received it (receive.go). So nothing is reordered, no buffer changes hands, and
// nobody is woken for each step. With several processors, peers are spread over the lanes of the
// bind (lanes.go) and packets over the queues of the Tun, each with a goroutine of its own.
//
// Goroutines: transmit, one for each queue of the Tun, which sends when there is much to send; and
// loop, which owns all handshakes and timers (loop.go). Packets do not pass through loop, except
// those that waited for a session. All end with Close. What comes is received by goroutines of the
// bind, which also drop handshake messages that loop need not see (admission.go).
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

	"ginnel/internal/key"
)

// Tun is where packets come from and go to.
type Tun interface {
	// Queues returns the queues of packets that come from it: one at least, and always the same. The
	// Tun chooses the queue by the destination address, because only packets in one queue stay in
	// order. Each queue is read by a goroutine of its own, which encrypts and sends what it reads.
	Queues() []Queue
	// Write takes whole IP packets, each from offset on, and does not keep them.
	Write(bufs [][]byte, offset int) (int, error)
	BatchSize() int // packets that are best exchanged in one call
	MTU() int       // length of the largest packet
	Close() error
}

// Queue is a queue of packets of a Tun.
type Queue interface {
	// Notify has ready called whenever there is something to read, by whoever made it.
	Notify(ready func())
	// Waiting returns about how many bytes there are to read, 0 only if there are none.
	Waiting() int
	// Read fills bufs with whole IP packets, each from offset on, and returns how many there are. It
	// does not wait. One goroutine at a time reads.
	Read(bufs [][]byte, sizes []int, offset int) int
}

// Bind is where messages go to and come from.
type Bind interface {
	// Lanes is the number of lanes in which data messages arrive: a power of two that never
	// changes. Messages whose receiver indexes are equal modulo Lanes arrive in one goroutine and
	// in order.
	Lanes() int
	// Open has receive called with what comes, messages of one sender at a time, which it may change
	// until it returns. Calls may run beside each other.
	Open(receive func(messages [][]byte, from conn.Endpoint)) error
	// Send sends messages to one endpoint, in order. Calls with different lanes do not wait for
	// each other. A lane is 0 or more, and can be more than Lanes.
	Send(lane int, messages [][]byte, to conn.Endpoint) error
	// Close returns when receive is not called any more, or will return at once.
	Close() error
}

// Peer is what is to be known of a peer.
type Peer struct {
	Key          key.NodePublic
	PresharedKey key.Preshared  // zero: none
	AllowedIPs   []netip.Prefix // what it may send from, and what is sent to it; of a prefix that several have, the last has it
	Keepalive    time.Duration  // between messages when there is nothing to say; 0: none

	// Endpoint is where it is reached; nil: where it was, or will be, last heard from.
	Endpoint conn.Endpoint
	// Roams tells that it is reached where it was last heard from, whatever Endpoint was.
	Roams bool
}

// Session is what is known of a peer that speaks with us, or does not.
type Session struct {
	Endpoint  string    // as the bind writes it; empty: unknown
	Handshake time.Time // the last; zero: none yet
	Rx, Tx    uint64    // bytes of all messages
}

// Device is one WireGuard interface. Make it with New.
type Device struct {
	tun  Tun
	bind Bind
	log  *slog.Logger
	mtu  int

	start  time.Time // of the clock; see now
	self   atomic.Pointer[identity]
	routes routes
	index  table[uint32, owner] // by the number that we gave a session
	peers  table[key.NodePublic, *peer]
	lanes  lanes // of loop

	receivers sync.Pool // of *receiver
	admission admission // of handshake messages

	mu     sync.Mutex // held while peers are changed, and by Up and Close
	up     bool
	outs   []*outlet // for each queue of the tun
	mail   mailbox   // for loop
	closec chan struct{}
	once   sync.Once
	wg     sync.WaitGroup

	drops
}

// drops counts what was dropped, and why.
type drops struct {
	unroutable atomic.Uint64 // packets from the Tun for nobody's address
	foreign    atomic.Uint64 // packets of peers from an address that is not theirs
	bogus      atomic.Uint64 // messages that do not authenticate, are of no session, or were seen before
	full       atomic.Uint64 // packets that waited for a session in vain, and handshakes for which there was no room
}

// owner is what a number is of: a session, or a handshake that peer has yet to answer.
type owner struct {
	session *keypair
	peer    *peer
}

// identity is our own key, and what follows from it.
type identity struct {
	private *ecdh.PrivateKey
	public  key.NodePublic
	mac1Key [blake2s.Size]byte
	checker device.CookieChecker // of cookies that we gave
}

func newIdentity(k key.NodePrivate) *identity {
	raw := k.Raw()
	private, err := ecdh.X25519().NewPrivateKey(raw[:])
	if err != nil {
		panic(err) // never so: the key has the right length
	}
	id := &identity{private: private, public: k.Public()}
	id.mac1Key = blake2s.Sum256(append([]byte(device.WGLabelMAC1), id.public[:]...))
	id.checker.Init(device.NoisePublicKey(id.public))
	return id
}

// New makes a device without peers. Nothing passes before Up.
func New(tun Tun, bind Bind, k key.NodePrivate, log *slog.Logger) *Device {
	d := &Device{tun: tun, bind: bind, log: log, mtu: tun.MTU(), start: time.Now(), closec: make(chan struct{})}
	d.receivers.New = func() any { return &receiver{d: d} }
	d.lanes = make(lanes, bind.Lanes())
	d.index.part = func(n uint32) byte { return byte(n >> 24) } // the low bits are the lane
	d.peers.part = func(k key.NodePublic) byte { return k[0] }
	d.routes.init()
	d.outs = outlets(d)
	d.mail.init()
	d.admission.init()
	d.SetKey(k)
	return d
}

// now is the time on a clock that no other has: nanoseconds since New, never 0.
func (d *Device) now() int64 { return int64(time.Since(d.start)) + 1 }

// SetKey gives the device another identity. Sessions end.
func (d *Device) SetKey(k key.NodePrivate) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := newIdentity(k)
	if old := d.self.Load(); old != nil && old.public == id.public {
		return
	}
	d.self.Store(id)
	for _, p := range d.peers.all() {
		d.forgetSessions(p)
		d.ask(p, askReset)
	}
}

// Up opens the bind. What peers are told to be sent goes out from here on.
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
		return fmt.Errorf("wireguard: opening the way out: %w", err)
	}
	d.up = true
	for _, o := range d.outs {
		o.queue.Notify(o.pump)
		d.wg.Go(o.transmit)
	}
	d.wg.Go(d.loop)
	return nil
}

// SetPeer adds a peer, or changes one, whose sessions stay. Of one that is there an Endpoint of nil
// is ignored.
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
	d.routes.set(p, c.AllowedIPs)
	d.peers.set(c.Key, p)
	if c.Keepalive > 0 {
		d.ask(p, askLook)
	}
}

// SetEndpoint moves a peer, if there is one.
func (d *Device) SetEndpoint(k key.NodePublic, ep conn.Endpoint) {
	if p, ok := d.peer(k); ok {
		p.endpoint.Store(&ep)
	}
}

// RemovePeer ends all that is with a peer.
func (d *Device) RemovePeer(k key.NodePublic) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.peer(k)
	if !ok {
		return
	}
	d.peers.remove(k, p)
	d.routes.remove(p)
	p.removed.Store(true)
	d.full.Add(uint64(len(p.unstage())))
	d.forgetSessions(p)
	d.ask(p, askReset)
}

// Renew has the next packet to a peer wait for a new session. What comes under the old one is still
// taken.
func (d *Device) Renew(k key.NodePublic) {
	if p, ok := d.peer(k); ok {
		p.expire()
		d.ask(p, askReset)
	}
}

// Begin is Renew that does not wait for a packet, nor for the time that otherwise is between two
// attempts. A session whose handshake the peer or a response has completed since the call is new
// enough.
func (d *Device) Begin(k key.NodePublic) {
	if p, ok := d.peer(k); ok {
		p.expire()
		d.ask(p, askReset|askHandshake)
	}
}

// Sessions tells of all peers.
func (d *Device) Sessions() map[key.NodePublic]Session {
	all := make(map[key.NodePublic]Session)
	for k, p := range d.peers.all() {
		all[k] = p.session()
	}
	return all
}

// Session tells of one peer; of one that is not there it reports false.
func (d *Device) Session(k key.NodePublic) (Session, bool) {
	p, ok := d.peer(k)
	if !ok {
		return Session{}, false
	}
	return p.session(), true
}

// Dropped tells how many packets were dropped, and why.
type Dropped struct {
	Unroutable uint64 // to an address that no peer has
	Foreign    uint64 // from a peer, but not from an address of its own
	Bogus      uint64 // messages that do not authenticate, are of no session, or came before
	Full       uint64 // packets that waited for a session in vain, and handshakes when there were too many
}

// Dropped returns the counters so far.
func (d *Device) Dropped() Dropped {
	return Dropped{Unroutable: d.unroutable.Load(), Foreign: d.foreign.Load(), Bogus: d.bogus.Load(), Full: d.full.Load()}
}

func (d *Device) peer(k key.NodePublic) (*peer, bool) {
	p := d.peers.get(k)
	return p, p != nil
}

// Done is closed when the device has ended.
func (d *Device) Done() <-chan struct{} { return d.closec }

func (d *Device) isClosed() bool {
	select {
	case <-d.closec:
		return true
	default:
		return false
	}
}

// Close ends the device, its Tun and its bind.
func (d *Device) Close() (err error) {
	d.once.Do(func() {
		d.mu.Lock() // so that Up has started all it starts, or will find the device closed
		close(d.closec)
		d.mu.Unlock()
		err = errors.Join(d.tun.Close(), d.bind.Close()) // in this order: what is received may wait for room in the tun
	})
	d.wg.Wait()
	return err
}
