package wireguard

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"ginnel/key"
)

// An in-memory network of devices. Tests decide which messages pass, in the fake time of synctest.

// tun is a Tun whose outgoing packets tests make and whose incoming packets they inspect. It has
// one queue, itself.
type tun struct {
	mu    sync.Mutex
	ready func()
	out   [][]byte
	in    [][]byte
}

func (u *tun) Queues() []Queue { return []Queue{u} }

func (u *tun) Notify(ready func()) {
	u.mu.Lock()
	u.ready = ready
	u.mu.Unlock()
	ready()
}

func (u *tun) Waiting() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for _, b := range u.out {
		n += len(b)
	}
	return n
}

func (u *tun) Read(bufs [][]byte, sizes []int, offset int) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for n < len(bufs) && len(u.out) > 0 {
		sizes[n] = copy(bufs[n][offset:], u.out[0])
		u.out = u.out[1:]
		n++
	}
	return n
}

func (u *tun) Write(bufs [][]byte, offset int) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, b := range bufs {
		u.in = append(u.in, append([]byte(nil), b[offset:]...))
	}
	return len(bufs), nil
}

func (u *tun) BatchSize() int { return 8 }
func (u *tun) MTU() int       { return 1420 }
func (u *tun) Close() error   { return nil }

// send queues outgoing packets.
func (u *tun) send(packets ...[]byte) {
	u.mu.Lock()
	u.out = append(u.out, packets...)
	ready := u.ready
	u.mu.Unlock()
	if ready != nil {
		ready()
	}
}

// take removes the incoming packets and returns their texts.
func (u *tun) take() (texts []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, b := range u.in {
		texts = append(texts, text(b))
	}
	u.in = nil
	return texts
}

// packet returns an IP packet with text as its payload.
func packet(src, dst netip.Addr, text string) []byte {
	if src.Is6() {
		b := make([]byte, 40+len(text))
		b[0] = 0x60
		binary.BigEndian.PutUint16(b[4:], uint16(len(text)))
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		copy(b[40:], text)
		return b
	}
	b := make([]byte, 20+len(text))
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	copy(b[20:], text)
	return b
}

func text(b []byte) string {
	if b[0]>>4 == 6 {
		return string(b[40:])
	}
	return string(b[20:])
}

// port is a Bind and its own conn.Endpoint.
type port struct {
	name  string
	ip    netip.Addr
	lanes int
	pass  atomic.Pointer[func(b []byte, to *port) bool] // decides which sent messages pass; nil means all

	open atomic.Bool // messages to a port that is not open are lost
	inc  chan delivery
	once sync.Once
	endc chan struct{}
	wg   sync.WaitGroup
}

type delivery struct {
	b    []byte
	from *port
}

func newPort(name string) *port {
	return &port{
		name: name, ip: netip.MustParseAddr("192.0.2.1"), lanes: 1,
		inc: make(chan delivery, 4096), endc: make(chan struct{}),
	}
}

func (p *port) Open(receive func(messages [][]byte, from conn.Endpoint)) error {
	p.open.Store(true)
	p.wg.Go(func() { p.receive(receive) })
	return nil
}

func (p *port) receive(take func(messages [][]byte, from conn.Endpoint)) {
	for {
		select {
		case d := <-p.inc:
			take([][]byte{d.b}, d.from)
		case <-p.endc:
			return
		}
	}
}

func (p *port) Lanes() int { return p.lanes }

func (p *port) Send(_ int, bufs [][]byte, ep conn.Endpoint) error {
	to := ep.(*port)
	for _, b := range bufs {
		if pass := p.pass.Load(); (pass == nil || (*pass)(b, to)) && to.open.Load() {
			to.deliver(b, p)
		}
	}
	return nil
}

// filter makes pass decide which messages are sent from now on. nil lets all pass.
func (p *port) filter(pass func(b []byte, to *port) bool) {
	if pass == nil {
		p.pass.Store(nil)
		return
	}
	p.pass.Store(&pass)
}

func (p *port) deliver(b []byte, from *port) {
	p.inc <- delivery{append([]byte(nil), b...), from}
}

func (p *port) Close() error {
	p.once.Do(func() { close(p.endc) })
	p.wg.Wait()
	return nil
}

func (p *port) ClearSrc()           {}
func (p *port) SrcToString() string { return "" }
func (p *port) DstToString() string { return p.name }
func (p *port) DstToBytes() []byte  { return []byte(p.name) }
func (p *port) DstIP() netip.Addr   { return p.ip }
func (p *port) SrcIP() netip.Addr   { return netip.Addr{} }

// host is a device with its Tun and port.
type host struct {
	*Device
	tun  *tun
	port *port
	key  key.NodePrivate
	addr netip.Addr
}

func newHost(t testing.TB, n int) *host {
	h := &host{
		tun: new(tun), port: newPort(fmt.Sprint("host", n)), key: key.NewNodePrivate(),
		addr: netip.AddrFrom4([4]byte{100, 64, 0, byte(n)}),
	}
	h.port.ip = netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
	h.Device = New(h.tun, h.port, h.key, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { h.Close() })
	return h
}

// asPeer returns the configuration of h as a peer.
func (h *host) asPeer() Peer {
	return Peer{Key: h.key.Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(h.addr, 32)}, Endpoint: h.port}
}

// newPair returns two hosts that are peers of each other.
func newPair(t testing.TB) (a, b *host) {
	a, b = newHost(t, 1), newHost(t, 2)
	a.SetPeer(b.asPeer())
	b.SetPeer(a.asPeer())
	for _, h := range []*host{a, b} {
		if err := h.Up(); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

// sendText makes h send a packet with text to o.
func (h *host) sendText(o *host, text string) { h.tun.send(packet(h.addr, o.addr, text)) }

// counter counts messages.
type counter struct{ atomic.Int64 }

// n returns the number once all goroutines of the bubble are idle.
func (c *counter) n() int {
	synctest.Wait()
	return int(c.Load())
}

// count counts the messages of a type that h sends from now on; type 0 means all.
func (h *host) count(kind uint32) *counter {
	c := new(counter)
	before := h.port.pass.Load()
	h.port.filter(func(b []byte, to *port) bool {
		if kind == 0 || messageType(b) == kind {
			c.Add(1)
		}
		return before == nil || (*before)(b, to)
	})
	return c
}

// lose drops the next n messages of a type that h sends.
func (h *host) lose(kind uint32, n int64) {
	var lost atomic.Int64
	h.port.filter(func(b []byte, _ *port) bool { return messageType(b) != kind || lost.Add(1) > n })
}

func (h *host) handshakeAge(o *host) time.Duration {
	s, _ := h.PeerState(o.key.Public())
	if s.Handshake.IsZero() {
		return -1
	}
	return time.Since(s.Handshake)
}
