package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"ginnel/tuning"
)

// replies makes the replies to a request to connect, in the protocol of the client.
type replies interface {
	granted(local net.Addr) []byte
	refused(err error) []byte
}

// connect dials destination for c, sends the reply, and starts a tunnel. If that fails it closes c.
func (c *conn) connect(protocol protocol, r replies, destination string) {
	e := entry{protocol: protocol, destination: destination, started: time.Now()}
	upstream, err := dial(c, destination, func(ctx context.Context) (net.Conn, error) {
		return c.srv.Dial(ctx, "tcp", destination)
	})
	if err != nil {
		c.log(e, err)
		c.lingerClose(r.refused(err))
		return
	}
	if _, err := c.Write(r.granted(upstream.LocalAddr())); err != nil {
		c.log(e, err)
		c.Close()
		return
	}
	c.startTunnel(e, upstream, &c.srv.counters.sent, &c.srv.counters.received)
}

// dial runs open, which connects to destination. The context of open ends after DialTimeout, when
// the client hangs up, and when c is closed. The result of open is attached to c. An error is a
// *dialError, and has been counted.
func dial[T io.Closer](c *conn, destination string, open func(context.Context) (T, error)) (opened T, err error) {
	c.srv.limit.handshakeDone(c, time.Now())
	c.SetDeadline(time.Time{})
	ctx, cancel := context.WithTimeout(c.srv.live.ctx, c.srv.dialTimeout())
	defer cancel()
	err = errServerClosed
	if c.attach(closerFunc(cancel)) {
		w := c.watchHangup(cancel)
		opened, err = open(ctx)
		w.stop()
	}
	if err == nil && !c.attach(opened) {
		opened.Close()
		err = errServerClosed
	}
	if err != nil {
		err = c.srv.dialFailed(destination, err)
	}
	return opened, err
}

type closerFunc func()

func (f closerFunc) Close() error { f(); return nil }

// dialFailed counts err and returns it as a *dialError.
func (s *Server) dialFailed(destination string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %v: %w", s.dialTimeout(), err)
	}
	if !errors.Is(err, context.Canceled) { // cancelled: the client has hung up, which is no failure
		s.counters.failed[reasonOf(err)].Add(1)
	}
	return &dialError{destination, err}
}

var errReset = errors.New("connection reset after the end of its stream")

// tunnel joins the connection of a client and a connection to its destination. Two goroutines copy
// the bytes, one for each direction.
type tunnel struct {
	client         *conn
	upstream       io.ReadWriteCloser
	sent, received meter
	open           atomic.Int32 // directions that have not ended
	closed         atomic.Bool  // closed in order: errors that follow from that are not failures
	entry          entry
	failure        firstError
}

// startTunnel starts a tunnel between c and upstream, which is already attached to c. It returns at
// once, so that the stack and the buffers of the handshake can be freed.
func (c *conn) startTunnel(e entry, upstream io.ReadWriteCloser, sent, received *atomic.Uint64) {
	t := &tunnel{client: c, upstream: upstream, entry: e}
	t.sent.total, t.received.total = sent, received
	t.open.Store(2)
	c.srv.live.wg.Go(t.send)
	c.srv.live.wg.Go(t.receive)
}

// send copies bytes from the client to the destination, beginning with those that were read ahead.
func (t *tunnel) send() {
	err := t.sendAhead()
	if err == nil {
		err = copyStream(t.upstream, t.client.Conn, &t.sent)
	}
	t.ended(t.upstream, err)
	if err == nil {
		t.watchReset(t.client.Conn)
	}
}

func (t *tunnel) sendAhead() error {
	ahead := t.client.ahead
	t.client.ahead = nil
	if len(ahead) == 0 {
		return nil
	}
	n, err := t.upstream.Write(ahead)
	t.sent.add(int64(n))
	return err
}

// receive copies bytes from the destination to the client.
func (t *tunnel) receive() {
	err := copyStream(t.client.Conn, t.upstream, &t.received)
	t.ended(t.client.Conn, err)
	if err == nil {
		t.watchReset(t.upstream)
	}
}

// ended is called when the direction to dst has ended. After an error it aborts the tunnel. After
// the end of the stream it half-closes dst, and the other direction goes on. If dst cannot be
// half-closed it closes the tunnel, because otherwise a destination that never learns of the end
// might stay open for ever.
func (t *tunnel) ended(dst io.Closer, err error) {
	tuning.GrowStack()
	last := t.open.Add(-1) == 0
	switch {
	case err != nil:
		t.abort(err)
	case last:
		t.closed.Store(true)
		t.client.closeEnded()
	case closeWrite(dst) != nil:
		t.closed.Store(true)
		t.client.Close()
	}
	if last {
		t.log()
	}
}

// watchReset waits until the tunnel is closed. If side, whose stream has ended, resets its
// connection before that, watchReset aborts the tunnel: nothing reads from side any more, so no
// read would report the reset.
func (t *tunnel) watchReset(side io.Closer) {
	if waitReset(side) == nil {
		t.abort(errReset)
	}
}

// abort closes both sides with a reset if they can send one, because after an orderly end the peer
// would take a truncated stream for a complete one.
func (t *tunnel) abort(err error) {
	if t.closed.Load() {
		return
	}
	t.failure.set(err)
	for _, side := range [...]io.Closer{t.client.Conn, t.upstream} {
		if l, ok := side.(interface{ SetLinger(int) error }); ok {
			l.SetLinger(0)
		}
	}
	t.client.Close()
}

func (t *tunnel) log() {
	t.entry.sent, t.entry.received = t.sent.n.Load(), t.received.n.Load()
	t.client.log(t.entry, t.failure.get())
}
