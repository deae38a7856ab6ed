package proxy

import (
	"context"
	"net"
	"time"
)

// DialFunc reaches the one destination of a forward. Its ctx ends as that of Server.Dial does.
type DialFunc func(ctx context.Context) (net.Conn, error)

// Forward carries every connection that ln accepts to one destination: a local port that leads into
// the network behind the Server, or a port there that leads out. There is no handshake and no
// password, so who may reach ln is the caller's to decide. name stands for the destination in logs.
// Otherwise it is like Serve.
func (s *Server) Forward(ln net.Listener, name string, dial DialFunc) error {
	defer ln.Close()
	return s.whileLive(ln, func() error {
		return s.accept(ln, func(nc net.Conn) { s.live.wg.Go(func() { s.forward(nc, name, dial) }) })
	})
}

// Carry carries one connection to its destination, which dial reaches, as Forward does those of a
// listener. It returns once bytes are carried, or will never be.
func (s *Server) Carry(nc net.Conn, name string, dial DialFunc) {
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

// forward dials the destination and hands c to a tunnel. A client whose destination cannot be
// reached is reset, as if it had tried itself.
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
	c.tunnel(e, upstream, &c.srv.counters.sent, &c.srv.counters.received)
}
