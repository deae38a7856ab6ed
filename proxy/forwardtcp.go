package proxy

import (
	"context"
	"net"
	"time"
)

// DialFunc connects to the one destination of a forward. Its ctx ends as that of Server.Dial does.
type DialFunc func(ctx context.Context) (net.Conn, error)

// Forward forwards every connection that ln accepts to one destination: from a local port into the
// network behind the Server, or from a port there to a local one. There is no handshake and no
// password, so the caller decides who can connect to ln. name stands for the destination in logs.
// Otherwise it is like Serve.
func (s *Server) Forward(ln net.Listener, name string, dial DialFunc) error {
	defer ln.Close()
	return s.runUntilClosed(ln, func() error {
		return s.accept(ln, func(nc net.Conn) { s.live.wg.Go(func() { s.forward(nc, name, dial) }) })
	})
}

// ForwardConn forwards the single connection nc, as Forward does those of a listener. It returns
// when the dial has failed or the tunnel has started.
func (s *Server) ForwardConn(nc net.Conn, name string, dial DialFunc) {
	s.setup.Do(s.prepare)
	if !s.live.begin() {
		nc.Close()
		return
	}
	defer s.live.wg.Done()
	s.forward(nc, name, dial)
}

func (s *Server) forward(nc net.Conn, name string, dial DialFunc) {
	c := &conn{Conn: nc, srv: s, reach: reachLoopback}
	if !s.live.add(c) {
		nc.Close()
		return
	}
	s.counters.openConnections.Add(1)
	s.counters.forwarded.Add(1)
	c.forward(name, dial)
}

// forward dials the destination and starts a tunnel. If the dial fails, the client gets a reset, as
// from a port that refuses connections.
func (c *conn) forward(name string, open DialFunc) {
	e := entry{protocol: protoForward, destination: name, started: time.Now()}
	upstream, err := dial(c, name, func(ctx context.Context) (net.Conn, error) { return open(ctx) })
	if err != nil {
		c.log(e, err)
		if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
			l.SetLinger(0)
		}
		c.Close()
		return
	}
	c.startTunnel(e, upstream, &c.srv.counters.sent, &c.srv.counters.received)
}
