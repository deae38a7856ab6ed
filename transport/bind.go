package transport

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"ginnel/internal/key"
)

// batchSize datagrams are exchanged with WireGuard in one call; see the same constant of userstack.
const batchSize = 46

// bind is the Conn as WireGuard sees it. WireGuard closes and reopens its bind at will; the Conn lives on.
type bind struct {
	c *Conn

	// mu is held while the sockets and the inbox are opened and closed, none of which blocks or calls back: an interrupt
	// that came after the resume of the next Open would make that deaf.
	mu      sync.Mutex
	session *session // nil while closed
}

// session is the time between an Open and the Close after it.
type session struct{ closec chan struct{} }

func (s *session) closed() bool {
	select {
	case <-s.closec:
		return true
	default:
		return false
	}
}

// Open implements conn.Bind. The port is the Conn's, whatever WireGuard asks for.
func (b *bind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.session != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	if b.c.isClosed() {
		return nil, 0, net.ErrClosed
	}
	s := &session{closec: make(chan struct{})}
	var fns []conn.ReceiveFunc
	var port uint16
	for _, sock := range b.c.sockets() {
		sock.resume()
		fns = append(fns, (&datagramReceiver{c: b.c, s: s, sock: sock}).receive)
		port = sock.localPort()
	}
	if b.c.cfg.Relay != nil {
		b.c.inbox.open()
		fns = append(fns, (&relayReceiver{c: b.c, s: s}).receive)
	}
	b.session = s
	return fns, port, nil
}

// Close implements conn.Bind: the receive functions return net.ErrClosed.
func (b *bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.session == nil {
		return nil
	}
	close(b.session.closec)
	b.session = nil
	for _, sock := range b.c.sockets() {
		sock.interrupt()
	}
	b.c.inbox.close()
	return nil
}

// SetMark implements conn.Bind; nothing here is routed by marks.
func (b *bind) SetMark(uint32) error { return nil }

// BatchSize implements conn.Bind.
func (b *bind) BatchSize() int { return cmp.Or(b.c.cfg.Batch, batchSize) }

// ParseEndpoint reads a peer's key in hex, or an IP address and port for a peer that speaks plain WireGuard.
func (b *bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	if len(s) == hex.EncodedLen(key.Size) {
		k, err := hex.DecodeString(s)
		if err != nil {
			return nil, fmt.Errorf("parsing endpoint %q: %w", s, err)
		}
		if e := b.c.endpointOf(key.NodePublic(k)); e != nil {
			return e, nil
		}
		return nil, fmt.Errorf("parsing endpoint %q: no such peer", s)
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, fmt.Errorf("parsing endpoint %q: %w", s, err)
	}
	return &address{netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())}, nil
}

// errNoPath is returned for a packet that has nowhere to go.
var errNoPath = errors.New("transport: no path to peer")

// Send implements conn.Bind.
func (b *bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	switch ep := ep.(type) {
	case *endpoint:
		return b.c.sendToPeer(bufs, ep)
	case *address:
		return b.c.sendDatagrams(bufs, ep.AddrPort)
	}
	return conn.ErrWrongEndpointType
}

// sendToPeer sends by the peer's present route.
func (c *Conn) sendToPeer(bufs [][]byte, e *endpoint) error {
	if !e.sent.Load() {
		e.sent.Store(true)
	}
	if !e.awake.Load() {
		c.wakePeer(e)
	}
	r := e.route.Load()
	if r.relay && len(bufs) == 1 && isInitiation(bufs[0]) {
		e.handshakes.sent(time.Now())
	}
	direct := errNoPath
	if r.direct.IsValid() {
		if direct = c.sendDatagrams(bufs, r.direct); direct != nil {
			c.tell(sendFailed{e, r.direct, direct})
		}
	}
	if c.cfg.Relay == nil || direct == nil && !r.relay {
		return direct
	}
	relayed := c.cfg.Relay.Send(r.region, e.key, bufs)
	if direct == nil {
		return nil
	}
	return relayed
}

// sendDatagrams sends over UDP.
func (c *Conn) sendDatagrams(bufs [][]byte, to netip.AddrPort) error {
	sock := c.socketFor(to)
	if sock == nil {
		return &net.OpError{Op: "write", Net: "udp", Addr: net.UDPAddrFromAddrPort(to), Err: errNoFamily}
	}
	return sock.writeBatch(bufs, to)
}

var errNoFamily = errors.New("no socket of this address family")

// datagramReceiver is one receive function: it takes disco and STUN out of what a socket brings and leaves WireGuard
// the rest.
type datagramReceiver struct {
	c    *Conn
	s    *session
	sock socket
	from [batchSize]netip.AddrPort
	seen addressCache

	errs  int           // in a row
	delay time.Duration // before the last attempt
}

const (
	// quickReadErrors in a row pass without a pause: they may be what datagrams that we sent have provoked. Further ones
	// are about the socket, which is tried again more and more slowly: to WireGuard an error would be the end of its
	// receiving by this socket for good.
	quickReadErrors = 100
	minReadDelay    = 5 * time.Millisecond
	maxReadDelay    = time.Second
)

func (r *datagramReceiver) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	for {
		n, err := r.sock.readBatch(bufs[:min(len(bufs), len(r.from))], sizes, r.from[:])
		if r.s.closed() || r.c.isClosed() {
			return 0, net.ErrClosed
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return 0, net.ErrClosed
			}
			if !r.afterError(err) {
				return 0, net.ErrClosed
			}
			continue
		}
		r.errs, r.delay = 0, 0
		if r.sort(bufs, sizes, eps, n) {
			return n, nil
		}
	}
}

// afterError waits until it is worth reading again. It reports false if the bind or the Conn is closed meanwhile.
func (r *datagramReceiver) afterError(err error) bool {
	r.c.counters.udpReceiveErrors.Add(1)
	if r.errs++; r.errs < quickReadErrors {
		return true
	}
	if r.errs == quickReadErrors {
		r.c.log.Warn("UDP socket does not receive", "port", r.sock.localPort(), "err", err)
	}
	r.delay = min(max(2*r.delay, minReadDelay), maxReadDelay)
	t := time.NewTimer(r.delay)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.s.closec:
	case <-r.c.closec:
	}
	return false
}

// sort empties the slots that are not WireGuard's and reports whether any is.
func (r *datagramReceiver) sort(bufs [][]byte, sizes []int, eps []conn.Endpoint, n int) (wanted bool) {
	for i := range n {
		b := bufs[i][:sizes[i]]
		switch class, geneve := classify(b); {
		case geneve:
			r.c.counters.geneve.Add(1) // peer relays are not used
			sizes[i] = 0
		case class == classDisco:
			r.c.tellDisco(b, r.from[i])
			sizes[i] = 0
		case class == classSTUN:
			r.c.tellSTUN(b)
			sizes[i] = 0
		default:
			eps[i] = r.seen.get(r.from[i])
			wanted = true
		}
	}
	return wanted
}

// relayReceiver is the receive function for what relays bring.
type relayReceiver struct {
	c *Conn
	s *session
}

func (r *relayReceiver) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	n := r.c.inbox.take(bufs, sizes, eps)
	if n == 0 || r.s.closed() {
		return 0, net.ErrClosed
	}
	return n, nil
}
