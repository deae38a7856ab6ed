package derp

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// FrameConn is a DERP connection that carries frames in both directions. Below it are TLS, plain
// TCP or a WebSocket.
type FrameConn struct {
	Conn    net.Conn      // frames are read from it and written to it
	base    net.Conn      // the lowest layer; closing it ends the connection at once, without a goodbye
	sock    *sock         // base if its writes can return at once, else nil
	Timeout time.Duration // of each write

	mu    sync.Mutex
	cause error // the first reason for the end
}

// NewFrameConn returns a FrameConn over conn, whose lowest layer is base. timeout limits each
// write.
func NewFrameConn(conn, base net.Conn, timeout time.Duration) *FrameConn {
	w := &FrameConn{Conn: conn, base: base, Timeout: timeout}
	w.sock, _ = base.(*sock)
	return w
}

// BaseOf returns the connection under conn if conn is TLS, else conn.
func BaseOf(conn net.Conn) net.Conn {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return conn
}

// WrapTCP sets the keepalives and the other socket options of a relay connection on conn. It
// returns conn with reads and writes that need not wait; a connection other than TCP is returned as
// it is.
func WrapTCP(conn net.Conn, keepAlive net.KeepAliveConfig) net.Conn {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(keepAlive)
		tuneSocket(tcp)
	}
	return newSock(conn)
}

// Start makes writes return at once from now on, if the connection can do that. kick is called when
// a write leaves bytes behind that flush must write. The connection must have no deadlines.
func (w *FrameConn) Start(kick func()) {
	if w.sock != nil {
		w.sock.start(kick)
	}
}

// nonblocking reports whether write returns without waiting for the network.
func (w *FrameConn) nonblocking() bool { return w.sock != nil }

// write writes whole frames. Only one goroutine may write at a time.
func (w *FrameConn) write(frames []byte) error {
	if w.sock == nil {
		w.Conn.SetWriteDeadline(time.Now().Add(w.Timeout))
	}
	_, err := w.Conn.Write(frames)
	if w.sock != nil {
		w.sock.pace(len(frames))
	}
	return err
}

// pending reports whether earlier writes left bytes for flush.
func (w *FrameConn) pending() bool { return w.sock != nil && w.sock.pending() }

// flush waits until the system has taken all bytes that were written. It fails if the system takes
// nothing for Timeout.
func (w *FrameConn) flush() error {
	if w.sock == nil {
		return nil
	}
	return w.sock.flush(w.Timeout)
}

// holdUnsent limits how many bytes the system may hold before it sends them, if the system has such
// a limit.
func (w *FrameConn) holdUnsent(limit int) {
	if w.sock != nil {
		w.sock.holdUnsent(limit)
	}
}

// Fail closes the connection at once. err becomes the cause unless there is one already.
func (w *FrameConn) Fail(err error) {
	w.setCause(err)
	w.base.Close()
}

// HangUp is Fail, except that it first sends the goodbye of TLS or WebSocket if that takes no
// waiting.
func (w *FrameConn) HangUp(err error) {
	w.setCause(err) // first, because the goodbye makes reads fail with another error
	if w.nonblocking() {
		w.Conn.Close()
	}
	w.base.Close()
}

// setCause keeps err unless there is a cause already.
func (w *FrameConn) setCause(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause == nil {
		w.cause = err
	}
}

// Cause returns why the connection ended: the first error given to Fail or HangUp, else err.
func (w *FrameConn) Cause(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause != nil {
		return w.cause
	}
	return err
}
