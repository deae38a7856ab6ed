package derp

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// FrameConn is an established DERP connection seen from the layer above: a byte stream in both
// directions that carries frames, whatever lies below (TLS, plain TCP, WebSocket).
type FrameConn struct {
	Conn    net.Conn // what frames are read from and written to
	base    net.Conn // the transport under conn: closing it takes no farewell and no waiting
	sock    *sock    // base where it can be written to without waiting, else nil
	Timeout time.Duration

	mu    sync.Mutex
	cause error // why it ended
}

// NewFrameConn returns the wire over conn, whose lowest layer is base; timeout limits each write.
func NewFrameConn(conn, base net.Conn, timeout time.Duration) *FrameConn {
	w := &FrameConn{Conn: conn, base: base, Timeout: timeout}
	w.sock, _ = base.(*sock)
	return w
}

// BaseOf returns the layer under conn if conn is TLS, else conn.
func BaseOf(conn net.Conn) net.Conn {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return conn
}

// WrapTCP sets keepalives and the other options of a relay's sockets on conn and returns it with
// reads and writes that need not wait. Other connections than TCP are returned as they are.
func WrapTCP(conn net.Conn, keepAlive net.KeepAliveConfig) net.Conn {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(keepAlive)
		tuneSocket(tcp)
	}
	return newSock(conn)
}

// Start makes writes return without waiting from now on, where that is possible: kick is called
// when one leaves something behind that flush must write. The connection must not have deadlines.
func (w *FrameConn) Start(kick func()) {
	if w.sock != nil {
		w.sock.start(kick)
	}
}

// nonblocking reports whether write returns without waiting for the network.
func (w *FrameConn) nonblocking() bool { return w.sock != nil }

// write writes whole frames. One caller at a time.
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

// pending reports whether flush has something to do.
func (w *FrameConn) pending() bool { return w.sock != nil && w.sock.pending() }

// flush waits until the system has taken all that was written, at most for the time limit.
func (w *FrameConn) flush() error {
	if w.sock == nil {
		return nil
	}
	return w.sock.flush(w.Timeout)
}

// holdUnsent limits how many bytes the system may hold that it has not sent, where that is
// possible.
func (w *FrameConn) holdUnsent(limit int) {
	if w.sock != nil {
		w.sock.holdUnsent(limit)
	}
}

// Fail ends the connection at once; err is remembered if it is the first reason to do so.
func (w *FrameConn) Fail(err error) {
	w.setCause(err)
	w.base.Close()
}

// HangUp is fail, but tells the other side first if that takes no waiting.
func (w *FrameConn) HangUp(err error) {
	w.setCause(err) // before the goodbye makes a read fail, for another reason
	if w.nonblocking() {
		w.Conn.Close()
	}
	w.base.Close()
}

// setCause remembers the first reason for the end.
func (w *FrameConn) setCause(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause == nil {
		w.cause = err
	}
}

// Cause returns why the connection ended: the first reason given to fail, else err.
func (w *FrameConn) Cause(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause != nil {
		return w.cause
	}
	return err
}
