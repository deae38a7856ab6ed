package node

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/userstack"
)

// servedPorts are the ports of this node that peers may reach, counted, because there may be one listener on each
// address.
type servedPorts struct {
	mu    sync.RWMutex
	ports map[servedPort]int
}

type servedPort struct {
	protocol uint8
	port     uint16
}

func (s *servedPorts) add(p servedPort, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports == nil {
		s.ports = make(map[servedPort]int)
	}
	if s.ports[p] += n; s.ports[p] == 0 {
		delete(s.ports, p)
	}
}

func (s *servedPorts) has(p servedPort) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ports[p] > 0
}

// accepts is the stack's filter: what is served, as far as the map allows it.
func (n *Node) accepts(f userstack.Flow) bool {
	m := n.netmap.Load()
	if !n.routes.Load().isOwn(f.Dst.Addr()) {
		isRouted := f.Protocol == userstack.TCP || f.Protocol == userstack.UDP
		return isRouted && n.router.takes(f.Dst.Addr()) && m.Filter != nil && m.Filter(f)
	}
	isPing := f.Protocol == userstack.ICMPv4 || f.Protocol == userstack.ICMPv6
	if !(isPing && m.Mesh) && !n.served.has(servedPort{f.Protocol, f.Dst.Port()}) {
		return false
	}
	return m.Filter == nil || m.Filter(f)
}

// Listen accepts TCP connections from peers on addr; an unspecified or invalid IP means all of the node's addresses.
func (n *Node) Listen(addr netip.AddrPort) (net.Listener, error) {
	ln, err := n.stack.Listen(addr)
	if err != nil {
		return nil, err
	}
	port := servedPort{userstack.TCP, uint16(ln.Addr().(*net.TCPAddr).Port)}
	n.served.add(port, 1)
	return &servedListener{Listener: ln, done: sync.OnceFunc(func() { n.served.add(port, -1) })}, nil
}

// openGate opens port to peers, and has take decide about each connection.
func (n *Node) openGate(port uint16, take func(*userstack.Incoming)) (io.Closer, error) {
	g, err := n.stack.OpenGate(port, take)
	if err != nil {
		return nil, err
	}
	p := servedPort{userstack.TCP, port}
	n.served.add(p, 1)
	return &servedGate{Closer: g, done: sync.OnceFunc(func() { n.served.add(p, -1) })}, nil
}

type servedGate struct {
	io.Closer
	done func()
}

// Close implements io.Closer.
func (g *servedGate) Close() error {
	g.done()
	return g.Closer.Close()
}

type servedListener struct {
	net.Listener
	done func()
}

func (l *servedListener) Close() error {
	l.done()
	return l.Listener.Close()
}

// ListenPacket receives datagrams from peers on addr, as Listen does connections. On port 0 only answers to what was
// sent come in. On another, answers come in even where the map's filter lets nobody begin.
func (n *Node) ListenPacket(addr netip.AddrPort) (net.PacketConn, error) {
	c, err := n.servePackets(addr)
	if err != nil {
		return nil, err
	}
	c.begins = addr.Port() != 0 && n.member != nil
	return c, nil
}

// servePackets is ListenPacket for a socket that only answers.
func (n *Node) servePackets(addr netip.AddrPort) (*meshPacketConn, error) {
	pc, err := n.stack.ListenPacket(addr)
	if err != nil {
		return nil, err
	}
	c := &meshPacketConn{PacketConn: pc, n: n, port: addr.Port(), done: func() {}}
	if c.port != 0 {
		port := servedPort{userstack.UDP, c.port}
		n.served.add(port, 1)
		c.done = sync.OnceFunc(func() { n.served.add(port, -1) })
	}
	return c, nil
}

// meshPacketConn is a socket in the mesh.
type meshPacketConn struct {
	*userstack.PacketConn
	n      *Node
	port   uint16
	begins bool // it may send first, from a port that the stack asks the filter about
	done   func()

	told atomic.Pointer[sentTo] // what the filter was told last
}

// sentTo is a destination, and when the filter was told of it.
type sentTo struct {
	to netip.AddrPort
	at time.Time
}

// tellAgain is how long the filter need not be told of a destination again; it forgets those that
// were used the longest ago.
const tellAgain = time.Second

// WriteTo implements net.PacketConn.
func (c *meshPacketConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if a, ok := addr.(*net.UDPAddr); ok {
		c.prepare(a.AddrPort())
	}
	return c.PacketConn.WriteTo(b, addr)
}

// WriteToUDPAddrPort is WriteTo without the allocations.
func (c *meshPacketConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	c.prepare(to)
	return c.PacketConn.WriteToUDPAddrPort(b, to)
}

// prepare has the way to a peer, and back, open for a datagram.
func (c *meshPacketConn) prepare(to netip.AddrPort) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	c.n.wakePeer(c.n.routes.Load().peer(to.Addr()))
	if !c.begins {
		return
	}
	now := time.Now()
	if t := c.told.Load(); t != nil && t.to == to && now.Sub(t.at) < tellAgain {
		return
	}
	c.told.Store(&sentTo{to, now})
	for _, own := range c.n.stack.Addrs() {
		if own.Is4() == to.Addr().Is4() {
			c.n.member.mapper.filter.Sent(netip.AddrPortFrom(own, c.port), to)
		}
	}
}

// Close implements net.PacketConn.
func (c *meshPacketConn) Close() error {
	c.done()
	return c.PacketConn.Close()
}
