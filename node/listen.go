package node

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"ginnel/userstack"
)

// accepts is the stack's filter: what the map allows. What it allows and nobody serves, the stack
// refuses.
func (n *Node) accepts(f userstack.Flow) bool {
	m := n.netmap.Load()
	isOwn := n.routes.Load().isOwn(f.Dst.Addr())
	switch f.Protocol {
	case userstack.TCP, userstack.UDP:
		if !isOwn && (m.Filter == nil || !n.router.takes(f.Dst.Addr())) {
			return false
		}
	default:
		if !isOwn || !m.Mesh {
			return false
		}
	}
	if m.Filter == nil || m.Filter(f) || isOwn && f.Protocol == userstack.TCP && n.exitDNS.admits(f.Src.Addr(), f.Dst.Port()) {
		return true
	}
	if f.Protocol == userstack.TCP {
		n.stack.SendRejection(f)
	}
	return false
}

// Listen accepts TCP connections from peers on addr; an unspecified or invalid IP means all of the
// node's addresses.
func (n *Node) Listen(addr netip.AddrPort) (net.Listener, error) { return n.stack.Listen(addr) }

// ListenPacket receives datagrams from peers on addr, as Listen does connections. On port 0 only
// answers to what was sent come in. On another, answers come in even where the map's filter lets
// nobody begin.
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
	return &meshPacketConn{PacketConn: pc, n: n, port: addr.Port()}, nil
}

// meshPacketConn is a socket in the mesh.
type meshPacketConn struct {
	*userstack.PacketConn
	n      *Node
	port   uint16
	begins bool // it may send first, from a port that the stack asks the filter about

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
