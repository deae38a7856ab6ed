package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"ginnel/userstack"
)

// Connections from the mesh that lead out of it: to what is behind this node, and to what it
// serves.

// outDialTimeout is how long the destination may take. Who asks has sent its SYN several times by
// then.
const outDialTimeout = 10 * time.Second

// carry connects to the destination before it answers for it, so that the peer learns whether it is
// there. It has done called when the connection has ended, or has not come about.
func (n *Node) carry(in *userstack.ConnRequest, name string, done func(), dial func(context.Context) (net.Conn, error)) {
	if !n.begin() {
		done()
		in.Reject()
		return
	}
	defer n.wg.Done()
	far, err := n.dialOut(dial)
	if err != nil {
		done()
		if passes(err) {
			in.Drop()
		} else {
			in.Reject()
		}
		n.log.Debug("carrying a connection out of the mesh", "from", in.Src, "to", name, "err", err)
		return
	}
	near, err := in.Accept()
	if err != nil {
		done()
		far.Close()
		n.log.Debug("carrying a connection out of the mesh", "from", in.Src, "to", name, "err", err)
		return
	}
	c := &countedConn{Conn: near, done: done}
	n.proxy.ForwardConn(c, name, func(context.Context) (net.Conn, error) { return far, nil })
}

// countedConn is counted until it is closed.
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

// dialOut dials until time is up or the node is closed.
func (n *Node) dialOut(dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), outDialTimeout)
	defer cancel()
	if !n.spawn(func() { n.cancelOnClose(ctx, cancel) }) {
		return nil, net.ErrClosed
	}
	return dial(ctx)
}

func (n *Node) cancelOnClose(ctx context.Context, cancel context.CancelFunc) {
	select {
	case <-n.closec:
		cancel()
	case <-ctx.Done():
	}
}

// peerOf is userstack.Config.Peer: it names a peer by the first of its addresses.
func (n *Node) peerOf(a netip.Addr) netip.Addr {
	if p := n.routes.Load().peer(a); p != nil && len(p.Addresses) > 0 {
		return p.Addresses[0].Addr()
	}
	return a
}

// passes reports whether a destination may answer later although it could not be reached: it has
// not answered in time, or this host lacked something. A peer that asks again finds out.
func passes(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout() || isShortage(err)
}

// isShortage reports whether this host has too little of something that a connection takes:
// descriptors, memory, local ports, or, for a unix socket, room in the backlog of the listener.
func isShortage(err error) bool {
	return slices.ContainsFunc(shortages, func(errno syscall.Errno) bool { return errors.Is(err, errno) })
}

var shortages = []syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EAGAIN,
}

// Pauses between attempts of dialPatiently.
const (
	firstDialPause = 5 * time.Millisecond
	lastDialPause  = 250 * time.Millisecond
)

// dialPatiently dials again and again as long as this host lacks something, until ctx ends.
func dialPatiently(ctx context.Context, network, addr string) (net.Conn, error) {
	for pause := firstDialPause; ; pause = min(2*pause, lastDialPause) {
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
