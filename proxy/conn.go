package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/tuning"
)

// conn is a client's connection, from Accept until it is closed. It reads what was read ahead
// before what is still to come.
type conn struct {
	net.Conn
	srv     *Server
	reach   reach
	evicted atomic.Bool // closed to make room

	// The place in srv.gate, which guards it.
	queue   *gateQueue // nil: none
	entered time.Time  // when the place was taken
	heard   time.Time  // when the client last said something after that

	// For net/http's goroutine only.
	http      bool            // net/http reads from the conn
	served    bool            // the head of a request has come
	unread    bool            // the last request has not been read to its end, so what follows is no request
	hijacked  bool            // the conn has been taken over from net/http
	readLimit time.Time       // the read deadline that net/http cannot put off
	origins   *http.Transport // the client's connections to origins; nil until it asks one

	head []byte // of the last request, in net/http's own buffer; see noteHead

	// ahead was read from Conn but not yet consumed. It belongs to whoever may read the conn.
	ahead []byte

	mu       sync.Mutex
	closed   bool
	attached io.Closer // closed together with the conn: a dial in progress, or what it led to
}

// needsPassword reports whether the client has to give one before it may use the proxy.
func (c *conn) needsPassword() bool { return c.srv.Auth != nil && c.reach != reachUser }

// sniffSize is how much of a first message is read at once. It holds any SOCKS request.
const sniffSize = 512

// handshake reads the first bytes and goes on in the protocol that they belong to.
func (c *conn) handshake() {
	tuning.GrowStack()
	deadline := time.Now().Add(c.srv.handshakeTimeout())
	c.SetDeadline(deadline)
	buf := make([]byte, sniffSize)
	n, err := io.ReadAtLeast(c.Conn, buf, 1)
	if err != nil {
		c.fail(err)
		return
	}
	c.srv.gate.renew(c, time.Now())
	c.ahead = buf[:n]
	switch buf[0] {
	case socks5Version:
		c.srv.counters.socks5.Add(1)
		c.serveSOCKS5()
	case socks4Version:
		c.srv.counters.socks4.Add(1)
		c.serveSOCKS4()
	default:
		c.srv.counters.http.Add(1)
		c.SetWriteDeadline(time.Time{})
		c.limitReads(deadline)
		c.http = true
		c.srv.front.conns.push(c)
	}
}

// fail ends a connection whose handshake came to nothing.
func (c *conn) fail(err error) {
	c.failed(err)
	c.Close()
}

// failed counts a handshake that came to nothing, unless that was by our doing.
func (c *conn) failed(err error) {
	if c.evicted.Load() || c.srv.live.ended() {
		return
	}
	c.srv.counters.handshakesFailed.Add(1)
	c.srv.log().Debug("handshake failed", "client", c.RemoteAddr(), "err", err)
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.ahead) == 0 {
		n, err := c.Conn.Read(p)
		c.noteHead(p, n)
		return n, err
	}
	n := copy(p, c.ahead)
	c.ahead = c.ahead[n:]
	if len(c.ahead) == 0 {
		c.ahead = nil
	}
	c.noteHead(p, n)
	return n, nil
}

// SetReadDeadline implements net.Conn, within the limit.
func (c *conn) SetReadDeadline(t time.Time) error {
	if !c.readLimit.IsZero() && (t.IsZero() || t.After(c.readLimit)) {
		t = c.readLimit
	}
	return c.Conn.SetReadDeadline(t)
}

// limitReads makes t the latest read deadline. The zero time lifts the limit and the deadline.
func (c *conn) limitReads(t time.Time) {
	c.readLimit = t
	c.SetReadDeadline(t)
}

// CloseWrite sends the end of the stream, as net/http does before it gives up a connection.
func (c *conn) CloseWrite() error { return closeWrite(c.Conn) }

// Close closes the connection and what is attached to it.
func (c *conn) Close() error { return c.close(io.Closer.Close) }

// closeEnded is Close where the streams have ended in order, both ways.
func (c *conn) closeEnded() error { return c.close(closeEnded) }

// closeEnded closes x as what has nothing to say any more, if there is a cheaper way for that.
func closeEnded(x io.Closer) error {
	if e, ok := x.(interface{ CloseEnded() error }); ok {
		return e.CloseEnded()
	}
	return x.Close()
}

func (c *conn) close(by func(io.Closer) error) error {
	c.srv.gate.leave(c) // even if closed before: it may have entered since
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	attached := c.attached
	c.mu.Unlock()

	c.srv.live.remove(c)
	c.srv.counters.openConnections.Add(-1)
	if attached != nil {
		by(attached)
	}
	return by(c.Conn)
}

// attach has x closed together with c, in place of what was attached before. It reports false if c
// is closed already; x is left to the caller then.
func (c *conn) attach(x io.Closer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.attached = x
	return true
}

// takeAhead makes b what is read next.
func (c *conn) takeAhead(b []byte) {
	if len(b) > 0 {
		c.ahead = append(append(make([]byte, 0, len(b)+len(c.ahead)), b...), c.ahead...)
	}
}

// How long, and for how much more input, a client that was refused is kept.
const (
	partTime  = 500 * time.Millisecond
	partBytes = 256 << 10
)

// part closes the connection after a last reply, or nil if that has been sent. Closing it at once
// could lose the reply: input that was not read makes the kernel send a reset, which overtakes it.
// So the client is told that nothing more will come, and is given a moment to hang up. It may be
// evicted once the reply is on its way.
func (c *conn) part(reply []byte) {
	defer c.Close()
	if c.evicted.Load() {
		return
	}
	c.SetDeadline(time.Now().Add(partTime))
	if len(reply) > 0 {
		if _, err := c.Write(reply); err != nil {
			return
		}
	}
	c.srv.admitIdle(c)
	if closeWrite(c.Conn) == nil {
		io.CopyN(io.Discard, c.Conn, partBytes)
	}
}

// closeWrite passes on the end of a stream, if the conn can be half-closed.
func closeWrite(x any) error {
	if cw, ok := x.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
