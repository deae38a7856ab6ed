package control

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

// memPipe returns the two ends of a connection in memory with deadlines and without half-close.
// Each direction buffers up to limit bytes, so that a writer needs no reader, as with sockets and
// unlike net.Pipe.
func memPipe(limit int, a, b netip.AddrPort) (*memConn, *memConn) {
	ab, ba := newMemHalf(limit), newMemHalf(limit)
	return &memConn{r: ba, w: ab, local: a, remote: b}, &memConn{r: ab, w: ba, local: b, remote: a}
}

type memConn struct {
	r, w          *memHalf
	local, remote netip.AddrPort
}

// memHalf is one direction of a memPipe.
type memHalf struct {
	mu       sync.Mutex
	cond     *sync.Cond
	limit    int
	buf      []byte
	closed   bool // the writer closed: the reader gets io.EOF after the buffered bytes
	broken   bool // the reader closed: writes fail
	deadline [2]time.Time
	timer    [2]*time.Timer
}

const (
	reading = 0
	writing = 1
)

func newMemHalf(limit int) *memHalf {
	h := &memHalf{limit: limit}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *memHalf) expired(side int) bool {
	return !h.deadline[side].IsZero() && !time.Now().Before(h.deadline[side])
}

func (h *memHalf) setDeadline(side int, t time.Time) {
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

func (c *memConn) Read(p []byte) (int, error) {
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

var errMemReset = errors.New("connection reset by peer")

func (c *memConn) Write(p []byte) (n int, err error) {
	h := c.w
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(p) > 0 {
		switch room := h.limit - len(h.buf); {
		case h.closed:
			return n, net.ErrClosed
		case h.broken:
			return n, errMemReset
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

func (c *memConn) Close() error {
	for _, d := range []struct {
		h    *memHalf
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

func (c *memConn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *memConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *memConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.r.setDeadline(reading, t)
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.w.setDeadline(writing, t)
	return nil
}

// memNet is a network in memory: listeners by "host:port", which memNet.DialContext connects to.
type memNet struct {
	limit int // bytes that each direction of a connection buffers

	mu        sync.Mutex
	listeners map[string]*memListener
	client    netip.Addr // the source address of dials; 100.64.0.1 unless set
	port      uint16
}

func newMemNet() *memNet {
	return &memNet{limit: 256 << 10, listeners: make(map[string]*memListener), client: netip.MustParseAddr("198.51.100.1"),
		port: 40000}
}

// listen opens a listener at "host:port".
func (n *memNet) listen(addr string) *memListener {
	l := &memListener{net: n, addr: addr, connc: make(chan net.Conn, 64), donec: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[addr] = l
	return l
}

var errMemRefused = errors.New("connection refused")

// DialContext connects to the listener at addr.
func (n *memNet) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if network == "tcp6" {
		return nil, errors.New("no suitable address")
	}
	n.mu.Lock()
	l := n.listeners[addr]
	n.port++
	a := netip.AddrPortFrom(n.client, n.port)
	n.mu.Unlock()
	if l == nil {
		return nil, errMemRefused
	}
	near, far := memPipe(n.limit, a, netip.MustParseAddrPort("203.0.113.1:443"))
	select {
	case l.connc <- far:
		return near, nil
	case <-l.donec:
		return nil, errMemRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memListener struct {
	net   *memNet
	addr  string
	connc chan net.Conn
	once  sync.Once
	donec chan struct{}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.connc:
		return c, nil
	case <-l.donec:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(l.close)
	return nil
}

func (l *memListener) close() {
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

func (l *memListener) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("203.0.113.1:443"))
}
