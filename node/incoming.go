package node

import (
	"context"
	"net"
	"sync"
	"time"

	"ginnel/userstack"
)

// Connections from the mesh that lead out of it: to what is behind this node, and to what it serves.

// outDialTimeout is how long the destination may take. Who asks has sent its SYN several times by then.
const outDialTimeout = 10 * time.Second

// carry connects to the destination before it answers for it, so that who asks learns whether it is there. It has done
// called when the connection has ended, or has not come about.
func (n *Node) carry(in *userstack.Incoming, name string, done func(), dial func(context.Context) (net.Conn, error)) {
	if !n.begin() {
		done()
		in.Refuse()
		return
	}
	defer n.wg.Done()
	far, err := n.dialOut(dial)
	if err != nil {
		done()
		in.Refuse()
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
	n.proxy.Carry(c, name, func(context.Context) (net.Conn, error) { return far, nil })
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
