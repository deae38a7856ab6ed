package relaytest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Pipe returns the two ends of a connection in memory. Each direction buffers up to limit bytes, so
// that a writer can continue without a reader, as on a socket and unlike net.Pipe. Deadlines work;
// half-closing does not exist.
func Pipe(limit int, a, b netip.AddrPort) (*Conn, *Conn) {
	ab, ba := newHalf(limit), newHalf(limit)
	return &Conn{r: ba, w: ab, local: a, remote: b}, &Conn{r: ab, w: ba, local: b, remote: a}
}

// Conn is one end of a connection in memory.
type Conn struct {
	r, w          *half
	local, remote netip.AddrPort
}

// half is one direction of a connection.
type half struct {
	mu       sync.Mutex
	cond     *sync.Cond
	limit    int
	buf      []byte
	closed   bool // by the writer: io.EOF after the buffered bytes
	broken   bool // by the reader: writes fail
	deadline [2]time.Time
	timer    [2]*time.Timer
}

const (
	reading = 0
	writing = 1
)

func newHalf(limit int) *half {
	h := &half{limit: limit}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *half) expired(side int) bool {
	return !h.deadline[side].IsZero() && !time.Now().Before(h.deadline[side])
}

func (h *half) setDeadline(side int, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadline[side] = t
	if h.timer[side] != nil {
		h.timer[side].Stop()
		h.timer[side] = nil
	}
	if d := time.Until(t); !t.IsZero() && d > 0 {
		h.timer[side] = time.AfterFunc(d, h.cond.Broadcast)
	}
	h.cond.Broadcast()
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	h := c.r
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.broken:
			return 0, net.ErrClosed
		case h.expired(reading):
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			h.cond.Broadcast()
			return n, nil
		case h.closed:
			return 0, io.EOF
		}
		h.cond.Wait()
	}
}

var errReset = errors.New("connection reset by peer")

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (n int, err error) {
	h := c.w
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(p) > 0 {
		switch room := h.limit - len(h.buf); {
		case h.closed:
			return n, net.ErrClosed
		case h.broken:
			return n, errReset
		case h.expired(writing):
			return n, os.ErrDeadlineExceeded
		case room > 0:
			m := min(room, len(p))
			h.buf = append(h.buf, p[:m]...)
			p, n = p[m:], n+m
			h.cond.Broadcast()
		default:
			h.cond.Wait()
		}
	}
	return n, nil
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	for _, d := range []struct {
		h    *half
		side int
	}{{c.r, reading}, {c.w, writing}} {
		d.h.mu.Lock()
		if d.side == reading {
			d.h.broken = true
		} else {
			d.h.closed = true
		}
		for i, timer := range d.h.timer {
			if timer != nil && i == d.side {
				timer.Stop()
			}
		}
		d.h.cond.Broadcast()
		d.h.mu.Unlock()
	}
	return nil
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.r.setDeadline(reading, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.w.setDeadline(writing, t)
	return nil
}

// Net is a network in memory. Its listeners are named "host:port"; DialContext connects to them.
type Net struct {
	Limit int // bytes that each direction of a connection buffers

	mu        sync.Mutex
	listeners map[string]*Listener
	client    netip.Addr // the address from which DialContext dials
	port      uint16
}

// NewNet returns a network whose connections buffer 256 KiB in each direction.
func NewNet() *Net {
	client := netip.MustParseAddr("198.51.100.1")
	return &Net{Limit: 256 << 10, listeners: make(map[string]*Listener), client: client, port: 40000}
}

// SetClient sets the address from which DialContext dials.
func (n *Net) SetClient(a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.client = a
}

// Listen opens "host:port".
func (n *Net) Listen(addr string) *Listener {
	l := &Listener{net: n, addr: addr, connc: make(chan net.Conn, 64), donec: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[addr] = l
	return l
}

var errRefused = errors.New("connection refused")

// DialContext connects to a listener.
func (n *Net) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if network == "tcp6" {
		return nil, errors.New("no suitable address")
	}
	n.mu.Lock()
	l := n.listeners[addr]
	n.port++
	a := netip.AddrPortFrom(n.client, n.port)
	n.mu.Unlock()
	if l == nil {
		return nil, errRefused
	}
	near, far := Pipe(n.Limit, a, netip.MustParseAddrPort("203.0.113.1:443"))
	select {
	case l.connc <- far:
		return near, nil
	case <-l.donec:
		return nil, errRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Listener accepts the connections to one address of a [Net].
type Listener struct {
	net   *Net
	addr  string
	connc chan net.Conn
	once  sync.Once
	donec chan struct{}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.connc:
		return c, nil
	case <-l.donec:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.once.Do(l.close)
	return nil
}

func (l *Listener) close() {
	l.net.mu.Lock()
	if l.net.listeners[l.addr] == l {
		delete(l.net.listeners, l.addr)
	}
	l.net.mu.Unlock()
	close(l.donec)
	for {
		select {
		case c := <-l.connc:
			c.Close()
		default:
			return
		}
	}
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("203.0.113.1:443"))
}

// OtherEndClosed reports whether the other end has closed its writing side.
func (c *Conn) OtherEndClosed() bool {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	return c.r.closed
}
