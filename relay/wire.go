package relay

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// wire is an established DERP connection seen from the layer above: a byte stream in both
// directions that carries frames, whatever lies below (TLS, plain TCP, WebSocket).
type wire struct {
	conn    net.Conn // what frames are read from and written to
	base    net.Conn // the transport under conn: closing it takes no farewell and no waiting
	sock    *sock    // base where it can be written to without waiting, else nil
	timeout time.Duration

	mu    sync.Mutex
	cause error // why it ended
}

// newWire returns the wire over conn, whose lowest layer is base; timeout limits each write.
func newWire(conn, base net.Conn, timeout time.Duration) *wire {
	w := &wire{conn: conn, base: base, timeout: timeout}
	w.sock, _ = base.(*sock)
	return w
}

// baseOf returns the layer under conn if conn is TLS, else conn.
func baseOf(conn net.Conn) net.Conn {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return conn
}

// start makes writes return without waiting from now on, where that is possible: kick is called
// when one leaves something behind that flush must write. The connection must not have deadlines.
func (w *wire) start(kick func()) {
	if w.sock != nil {
		w.sock.start(kick)
	}
}

// direct reports whether write returns without waiting for the network.
func (w *wire) direct() bool { return w.sock != nil }

// write writes whole frames. One caller at a time.
func (w *wire) write(frames []byte) error {
	if w.sock == nil {
		w.conn.SetWriteDeadline(time.Now().Add(w.timeout))
	}
	_, err := w.conn.Write(frames)
	if w.sock != nil {
		w.sock.pace(len(frames))
	}
	return err
}

// pending reports whether flush has something to do.
func (w *wire) pending() bool { return w.sock != nil && w.sock.pending() }

// flush waits until the system has taken all that was written, at most for the time limit.
func (w *wire) flush() error {
	if w.sock == nil {
		return nil
	}
	return w.sock.flush(w.timeout)
}

// holdUnsent limits how many bytes the system may hold that it has not sent, where that is
// possible.
func (w *wire) holdUnsent(limit int) {
	if w.sock != nil {
		w.sock.holdUnsent(limit)
	}
}

// fail ends the connection at once; err is remembered if it is the first reason to do so.
func (w *wire) fail(err error) {
	w.blame(err)
	w.base.Close()
}

// hangUp is fail, but tells the other side first if that takes no waiting.
func (w *wire) hangUp(err error) {
	w.blame(err) // before the goodbye makes a read fail, for another reason
	if w.direct() {
		w.conn.Close()
	}
	w.base.Close()
}

// blame remembers the first reason for the end.
func (w *wire) blame(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause == nil {
		w.cause = err
	}
}

// failure returns why the connection ended: the first reason given to fail, else err.
func (w *wire) failure(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause != nil {
		return w.cause
	}
	return err
}
