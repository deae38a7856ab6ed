package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/internal/sockowner"
	"ginnel/tuning"
)

// conn is the connection of a client, from Accept until it is closed. Read returns the bytes of
// ahead before it reads from the socket.
type conn struct {
	net.Conn
	srv     *Server
	reach   reach
	evicted atomic.Bool // closed to make room for another

	// Guarded by srv.limit.mu.
	limitedIn    *connsByAddress // the list of srv.limit that holds the conn; nil: none
	limitedSince time.Time       // when the conn was added to it
	lastHeard    time.Time       // when the client last sent something, or limitedSince

	// Used only by net/http's goroutine.
	http            bool            // net/http reads from the conn
	served          bool            // the head of a request has arrived
	bodyLeft        bool            // part of the last request's body was not read
	hijacked        bool            // the conn was taken over from net/http
	maxReadDeadline time.Time       // net/http cannot set a later read deadline; zero: no bound
	origins         *http.Transport // the client's connections to origin servers; nil until it asks one

	head []byte // of the last request, in net/http's own buffer; see recordHead

	// ahead was read from Conn but not consumed yet. It belongs to the goroutine that may read the
	// conn.
	ahead []byte

	mu       sync.Mutex
	closed   bool
	attached io.Closer // closed together with the conn: a dial in progress, or its result
}

// needsPassword reports whether the client has to authenticate before it may use the proxy.
func (c *conn) needsPassword() bool { return c.srv.Auth != nil && c.reach != reachUser }

// sniffSize is the size of the first read. Any SOCKS request fits into it.
const sniffSize = 512

// handshake reads the first bytes and serves the protocol that they tell.
func (c *conn) handshake() {
	tuning.GrowStack()
	// Not in the accept loop: asking for the owner takes time, which strangers must not take from
	// others.
	if c.reach == reachUser && !sockowner.IsOurs(c.Conn) {
		c.srv.counters.authRefused.Add(1)
		c.Close()
		return
	}
	deadline := time.Now().Add(c.srv.handshakeTimeout())
	c.SetDeadline(deadline)
	buf := make([]byte, sniffSize)
	n, err := io.ReadAtLeast(c.Conn, buf, 1)
	if err != nil {
		c.closeFailed(err)
		return
	}
	c.srv.limit.heard(c, time.Now())
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
		c.boundReadDeadline(deadline)
		c.http = true
		c.srv.http.conns.push(c)
	}
}

// closeFailed closes a connection whose handshake has failed.
func (c *conn) closeFailed(err error) {
	c.handshakeFailed(err)
	c.Close()
}

// handshakeFailed counts and logs a failed handshake, unless the Server itself has ended it.
func (c *conn) handshakeFailed(err error) {
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
		c.recordHead(p, n)
		return n, err
	}
	n := copy(p, c.ahead)
	c.ahead = c.ahead[n:]
	if len(c.ahead) == 0 {
		c.ahead = nil
	}
	c.recordHead(p, n)
	return n, nil
}

// SetReadDeadline implements net.Conn. A deadline later than maxReadDeadline is reduced to it.
func (c *conn) SetReadDeadline(t time.Time) error {
	if !c.maxReadDeadline.IsZero() && (t.IsZero() || t.After(c.maxReadDeadline)) {
		t = c.maxReadDeadline
	}
	return c.Conn.SetReadDeadline(t)
}

// boundReadDeadline sets the read deadline to t and keeps net/http from setting a later one. The
// zero time removes both the bound and the deadline.
func (c *conn) boundReadDeadline(t time.Time) {
	c.maxReadDeadline = t
	c.SetReadDeadline(t)
}

// CloseWrite sends the end of the stream. net/http calls it before it closes a connection whose
// request it has not read to the end.
func (c *conn) CloseWrite() error { return closeWrite(c.Conn) }

// Close closes the connection and what is attached to it.
func (c *conn) Close() error { return c.close(io.Closer.Close) }

// closeEnded is Close for a connection whose streams have both ended in order.
func (c *conn) closeEnded() error { return c.close(closeEnded) }

// closeEnded closes a conn whose streams have both ended. hostsock has a cheaper close for that.
func closeEnded(c io.Closer) error {
	if e, ok := c.(interface{ CloseEnded() error }); ok {
		return e.CloseEnded()
	}
	return c.Close()
}

func (c *conn) close(closeOne func(io.Closer) error) error {
	c.srv.limit.remove(c) // also after an earlier Close, because addIdle may have run since
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
		closeOne(attached)
	}
	return closeOne(c.Conn)
}

// attach replaces what is closed together with c by x. If c is already closed it returns false, and
// the caller has to close x.
func (c *conn) attach(x io.Closer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.attached = x
	return true
}

// prependAhead makes Read return b next. It copies b.
func (c *conn) prependAhead(b []byte) {
	if len(b) > 0 {
		c.ahead = append(append(make([]byte, 0, len(b)+len(c.ahead)), b...), c.ahead...)
	}
}

// lingerClose reads and discards input for at most this long, and at most this many bytes.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// lingerClose sends a last reply, unless it is nil, and closes the connection so that the client
// gets to read the reply. If a socket is closed with unread input, the kernel sends a reset, and
// the client may lose what it has not read yet. So lingerClose sends the end of the stream and
// discards input until the client hangs up. Meanwhile the conn counts as idle and may be evicted.
func (c *conn) lingerClose(reply []byte) {
	defer c.Close()
	if c.evicted.Load() {
		return
	}
	c.SetDeadline(time.Now().Add(lingerTime))
	if len(reply) > 0 {
		if _, err := c.Write(reply); err != nil {
			return
		}
	}
	c.srv.addIdle(c)
	if closeWrite(c.Conn) == nil {
		io.CopyN(io.Discard, c.Conn, lingerBytes)
	}
}

// closeWrite sends the end of the stream, if c can be half-closed.
func closeWrite(c io.Closer) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
