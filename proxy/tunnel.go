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

// answers says in a client's protocol how its request to connect ended.
type answers interface {
	granted(local net.Addr) []byte
	refused(err error) []byte
}

// connect dials destination for c, answers the client, and hands c to a tunnel. If there is none in
// the end, it closes c.
func (c *conn) connect(protocol protocol, a answers, destination string) {
	e := entry{protocol: protocol, destination: destination, started: time.Now()}
	upstream, err := dial(c, destination, func(ctx context.Context) (net.Conn, error) {
		return c.srv.Dial(ctx, "tcp", destination)
	})
	if err != nil {
		c.log(e, err)
		c.part(a.refused(err))
		return
	}
	if _, err := c.Write(a.granted(upstream.LocalAddr())); err != nil {
		c.log(e, err)
		c.Close()
		return
	}
	c.tunnel(e, upstream, &c.srv.counters.sent, &c.srv.counters.received)
}

// dial runs open, which reaches destination, for as long as DialTimeout allows, the client stays
// and c is not closed. What it opened is attached to c. An error is a *dialError and counted.
func dial[T io.Closer](c *conn, destination string, open func(context.Context) (T, error)) (opened T, err error) {
	c.srv.gate.succeed(c, time.Now())
	c.SetDeadline(time.Time{})
	ctx, cancel := context.WithTimeout(context.Background(), c.srv.dialTimeout())
	defer cancel()
	err = errServerClosed
	if c.attach(closerFunc(cancel)) {
		w := c.watch(cancel)
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

// dialFailed counts err and puts it in the form that is shown.
func (s *Server) dialFailed(destination string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %v: %w", s.dialTimeout(), err)
	}
	if !errors.Is(err, context.Canceled) { // the client gave up: that is nobody's failure
		s.counters.failed[reasonOf(err)].Add(1)
	}
	return &dialError{destination, err}
}

var errReset = errors.New("connection broken after the end of its stream")

// tunnel is a connection of a client to a destination. Two goroutines carry its bytes.
type tunnel struct {
	client         *conn
	upstream       io.ReadWriteCloser
	sent, received meter
	open           atomic.Int32 // directions that have not ended
	over           atomic.Bool  // closed in order: what either direction makes of that is no failure
	entry          entry
	failure        firstError
}

// tunnel starts a tunnel between c and upstream, which is attached to c already. It returns at
// once, so that whatever the handshake needed can be freed: stacks, buffers, readers.
func (c *conn) tunnel(e entry, upstream io.ReadWriteCloser, sent, received *atomic.Uint64) {
	t := &tunnel{client: c, upstream: upstream, entry: e}
	t.sent.total, t.received.total = sent, received
	t.open.Store(2)
	c.srv.live.wg.Go(t.send)
	c.srv.live.wg.Go(t.receive)
}

// send carries bytes from the client to the destination, those that were read ahead first.
func (t *tunnel) send() {
	err := t.sendAhead()
	if err == nil {
		err = carry(t.upstream, t.client.Conn, &t.sent)
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

// receive carries bytes from the destination to the client.
func (t *tunnel) receive() {
	err := carry(t.client.Conn, t.upstream, &t.received)
	t.ended(t.client.Conn, err)
	if err == nil {
		t.watchReset(t.upstream)
	}
}

// ended passes on how a direction ended: an end of the stream to dst, where the other direction
// goes on, or a failure, which ends both. A dst that cannot be half-closed is closed: a destination
// that never learns that its client is gone would be kept for ever.
func (t *tunnel) ended(dst any, err error) {
	tuning.GrowStack()
	last := t.open.Add(-1) == 0
	switch {
	case err != nil:
		t.abort(err)
	case last:
		t.over.Store(true)
		t.client.closeEnded()
	case closeWrite(dst) != nil:
		t.over.Store(true)
		t.client.Close()
	}
	if last {
		t.log()
	}
}

// watchReset waits until the tunnel is closed, and closes it if the side whose stream has ended
// breaks its connection: nobody reads there any more who would notice.
func (t *tunnel) watchReset(side any) {
	if waitReset(side) == nil {
		t.abort(errReset)
	}
}

// abort ends both directions by a reset, where the conns can send one: an orderly end would pass
// off a truncated stream as a whole one.
func (t *tunnel) abort(err error) {
	if t.over.Load() {
		return
	}
	t.failure.set(err)
	for _, side := range [...]any{t.client.Conn, t.upstream} {
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
