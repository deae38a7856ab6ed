package wireguard

import (
	"encoding/hex"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"ginnel/key"
)

// Our device and wireguard-go's behind one interface, for tests that compare them.

// subject is a device with one peer.
type subject interface {
	deliver(b []byte, from string)                    // passes it a message as received
	send(packet []byte)                               // queues an outgoing packet
	take() (messages []sentMessage, packets [][]byte) // removes the messages it sent and the packets it received
	endpoint() string                                 // of the peer
	close()
}

// sentMessage is a message that a subject has sent, and its destination.
type sentMessage struct {
	b  []byte
	to string
}

// subjectConfig configures a subject.
type subjectConfig struct {
	key      key.NodePrivate
	peer     key.NodePublic
	peerAddr netip.Addr
	endpoint string // of the peer; empty if unknown
	psk      [key.Size]byte
}

// ours is a subject with a device of this package.
type ours struct {
	h    *host
	peer key.NodePublic

	mu    sync.Mutex
	sent  []sentMessage
	ports map[string]*port
}

func newOurs(t testing.TB, s subjectConfig) subject {
	o := &ours{ports: make(map[string]*port), peer: s.peer}
	o.h = &host{tun: new(tun), port: newPort("self"), key: s.key}
	o.h.Device = New(o.h.tun, o.h.port, s.key, slog.New(slog.DiscardHandler))
	o.h.port.filter(func(b []byte, to *port) bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.sent = append(o.sent, sentMessage{slices.Clone(b), to.name})
		return false
	})
	p := Peer{
		Key: s.peer, PresharedKey: key.PresharedFromRaw(s.psk), Roams: true,
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(s.peerAddr, s.peerAddr.BitLen())},
	}
	if s.endpoint != "" {
		p.Endpoint = o.port(s.endpoint)
	}
	o.h.SetPeer(p)
	if err := o.h.Up(); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *ours) port(name string) *port {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ports[name] == nil {
		o.ports[name] = newPort(name)
	}
	return o.ports[name]
}

func (o *ours) deliver(b []byte, from string) { o.h.port.deliver(b, o.port(from)) }
func (o *ours) send(packet []byte)            { o.h.tun.send(packet) }
func (o *ours) close()                        { o.h.Close() }

func (o *ours) endpoint() string {
	s, _ := o.h.PeerState(o.peer)
	return s.Endpoint
}

func (o *ours) take() (sent []sentMessage, packets [][]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.h.tun.mu.Lock()
	defer o.h.tun.mu.Unlock()
	sent, o.sent = o.sent, nil
	packets, o.h.tun.in = o.h.tun.in, nil
	return sent, packets
}

// livePeers keeps peers of wireguard-go reachable. Their queues have finalizers that read from
// channels, which only goroutines of the bubble may do. Therefore the queues must outlive the test.
var livePeers struct {
	mu    sync.Mutex
	peers []*device.Peer
}

// theirs is a subject with a device of wireguard-go.
type theirs struct {
	dev  *device.Device
	bind *theirBind
	tun  *theirTun
}

func newTheirs(t testing.TB, s subjectConfig) subject {
	w := &theirs{
		bind: &theirBind{inc: make(chan sentMessage, 4096), closec: make(chan struct{})},
		tun:  &theirTun{outc: make(chan []byte, 16), closec: make(chan struct{}), events: make(chan wgtun.Event, 4)},
	}
	w.dev = device.NewDevice(w.tun, w.bind, device.NewLogger(device.LogLevelSilent, ""))
	raw := s.key.Raw()
	config := "private_key=" + hex.EncodeToString(raw[:]) + "\npublic_key=" + hex.EncodeToString(s.peer[:]) +
		"\nallowed_ip=" + netip.PrefixFrom(s.peerAddr, s.peerAddr.BitLen()).String() +
		"\npreshared_key=" + hex.EncodeToString(s.psk[:]) + "\n"
	if s.endpoint != "" {
		config += "endpoint=" + s.endpoint + "\n"
	}
	if err := w.dev.IpcSet(config); err != nil {
		t.Fatal(err)
	}
	if err := w.dev.Up(); err != nil {
		t.Fatal(err)
	}
	livePeers.mu.Lock()
	livePeers.peers = append(livePeers.peers, w.dev.LookupPeer(device.NoisePublicKey(s.peer)))
	livePeers.mu.Unlock()
	return w
}

func (w *theirs) deliver(b []byte, from string) { w.bind.inc <- sentMessage{slices.Clone(b), from} }
func (w *theirs) send(packet []byte)            { w.tun.outc <- packet }

func (w *theirs) close() {
	close(w.bind.closec)
	w.dev.Close()
}

func (w *theirs) endpoint() string {
	config, _ := w.dev.IpcGet()
	for line := range strings.Lines(config) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "endpoint="); ok {
			return v
		}
	}
	return ""
}

func (w *theirs) take() (sent []sentMessage, packets [][]byte) {
	w.bind.mu.Lock()
	defer w.bind.mu.Unlock()
	w.tun.mu.Lock()
	defer w.tun.mu.Unlock()
	sent, w.bind.sent = w.bind.sent, nil
	packets, w.tun.in = w.tun.in, nil
	return sent, packets
}

// theirEndpoint is a conn.Endpoint that consists of a name.
type theirEndpoint string

func (e theirEndpoint) ClearSrc()           {}
func (e theirEndpoint) SrcToString() string { return "" }
func (e theirEndpoint) DstToString() string { return string(e) }
func (e theirEndpoint) DstToBytes() []byte  { return []byte(e) }
func (e theirEndpoint) DstIP() netip.Addr   { return netip.MustParseAddr("192.0.2.1") }
func (e theirEndpoint) SrcIP() netip.Addr   { return netip.Addr{} }

// theirBind is a conn.Bind that receives from inc and records what is sent.
type theirBind struct {
	inc    chan sentMessage // whose field "to" is the sender here
	closec chan struct{}

	mu   sync.Mutex
	sent []sentMessage
}

func (b *theirBind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	return []conn.ReceiveFunc{b.receive}, 1, nil
}

func (b *theirBind) receive(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	select {
	case m := <-b.inc:
		sizes[0], eps[0] = copy(packets[0], m.b), theirEndpoint(m.to)
		return 1, nil
	case <-b.closec:
		return 0, net.ErrClosed
	}
}

func (b *theirBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	for _, m := range bufs {
		b.mu.Lock()
		b.sent = append(b.sent, sentMessage{slices.Clone(m), ep.DstToString()})
		b.mu.Unlock()
	}
	return nil
}

func (b *theirBind) ParseEndpoint(s string) (conn.Endpoint, error) { return theirEndpoint(s), nil }
func (b *theirBind) SetMark(uint32) error                          { return nil }
func (b *theirBind) BatchSize() int                                { return 1 }
func (b *theirBind) Close() error                                  { return nil }

// theirTun is a tun.Device whose outgoing packets tests make and whose incoming packets they
// inspect.
type theirTun struct {
	outc   chan []byte
	closec chan struct{}
	once   sync.Once
	events chan wgtun.Event

	mu sync.Mutex
	in [][]byte
}

func (u *theirTun) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case p := <-u.outc:
		sizes[0] = copy(bufs[0][offset:], p)
		return 1, nil
	case <-u.closec:
		return 0, os.ErrClosed
	}
}

func (u *theirTun) Write(bufs [][]byte, offset int) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, b := range bufs {
		u.in = append(u.in, slices.Clone(b[offset:]))
	}
	return len(bufs), nil
}

func (u *theirTun) Close() error {
	u.once.Do(func() {
		close(u.closec)
		close(u.events)
	})
	return nil
}

func (u *theirTun) File() *os.File             { return nil }
func (u *theirTun) MTU() (int, error)          { return 1420, nil }
func (u *theirTun) Name() (string, error)      { return "reference", nil }
func (u *theirTun) Events() <-chan wgtun.Event { return u.events }
func (u *theirTun) BatchSize() int             { return 1 }
