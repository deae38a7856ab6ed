package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"ginnel/proxy"
	"ginnel/userstack"
)

// dialFunc connects to a destination that is known to whoever made it.
type dialFunc = func(context.Context) (net.Conn, error)

// carrier carries connections from the mesh to destinations outside it: to networks behind this
// node, and to the targets of served ports.
type carrier struct {
	log   *slog.Logger
	life  *lifetime
	proxy *proxy.Server // copies the bytes
}

// carryTimeout bounds the dial of the destination. The peer's TCP has repeated its SYN several
// times by then.
const carryTimeout = 10 * time.Second

// carry connects to the destination before it completes the peer's handshake, so that the peer
// learns whether the destination accepts. It calls done when the connection has ended, or was not
// made.
func (c *carrier) carry(in *userstack.ConnRequest, name string, done func(), dial dialFunc) {
	if !c.life.begin() {
		done()
		in.Reject()
		return
	}
	defer c.life.done()
	far, err := c.dial(dial)
	if err != nil {
		done()
		if isTemporary(err) {
			in.Drop()
		} else {
			in.Reject()
		}
		c.log.Debug("carrying a connection out of the mesh", "from", in.Src, "to", name, "err", err)
		return
	}
	near, err := in.Accept()
	if err != nil {
		done()
		far.Close()
		c.log.Debug("carrying a connection out of the mesh", "from", in.Src, "to", name, "err", err)
		return
	}
	nc := &countedConn{Conn: near, done: done}
	c.proxy.ForwardConn(nc, name, func(context.Context) (net.Conn, error) { return far, nil })
}

// dial dials until carryTimeout or the node's end.
func (c *carrier) dial(dial dialFunc) (net.Conn, error) {
	ctx, cancel := c.life.withTimeout(carryTimeout)
	defer cancel()
	return dial(ctx)
}

// countedConn calls done when it is closed.
type countedConn struct {
	*userstack.Conn
	once sync.Once
	done func()
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.once.Do(c.done)
	return c.Conn.Close()
}

// isTemporary reports whether a later attempt may succeed: the destination did not answer in time,
// or this host lacked a resource. The peer's SYN is dropped then instead of refused, because its
// next one is that attempt.
func isTemporary(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout() || isShortage(err)
}

// isShortage reports whether this host lacks something that a connection takes: descriptors,
// memory, local ports, or, for a unix socket, room in the listener's backlog.
func isShortage(err error) bool {
	return slices.ContainsFunc(shortages, func(errno syscall.Errno) bool { return errors.Is(err, errno) })
}

var shortages = []syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EAGAIN,
}

// Pauses between the attempts of dialWithRetry.
const (
	dialRetryMin = 5 * time.Millisecond
	dialRetryMax = 250 * time.Millisecond
)

// dialWithRetry dials, and repeats a dial that fails for a shortage until ctx ends.
func dialWithRetry(ctx context.Context, network, addr string) (net.Conn, error) {
	for pause := dialRetryMin; ; pause = min(2*pause, dialRetryMax) {
		c, err := dialOnHost(ctx, network, addr)
		if err == nil || !isShortage(err) {
			return c, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		}
	}
}
