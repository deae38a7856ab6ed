package node

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"ginnel/userstack"
)

// Listen accepts TCP connections from peers on addr; an unspecified or invalid IP means all of the
// node's addresses.
func (n *Node) Listen(addr netip.AddrPort) (net.Listener, error) { return n.plane.stack.Listen(addr) }

// ListenPacket receives datagrams from peers on addr, as Listen accepts connections. On port 0 it
// receives only replies. On another port it receives replies even from peers that the map's filter
// does not let send first.
func (n *Node) ListenPacket(addr netip.AddrPort) (net.PacketConn, error) {
	c, err := n.ingress.listenReplying(addr)
	if err != nil {
		return nil, err
	}
	c.sendsFirst = addr.Port() != 0 && n.member != nil
	return c, nil
}

// listenReplying opens a socket that only replies to what peers send.
func (g *ingress) listenReplying(addr netip.AddrPort) (*meshPacketConn, error) {
	pc, err := g.plane.stack.ListenPacket(addr)
	if err != nil {
		return nil, err
	}
	return &meshPacketConn{PacketConn: pc, g: g, port: addr.Port()}, nil
}

// meshPacketConn is a UDP socket in the mesh.
type meshPacketConn struct {
	*userstack.PacketConn
	g          *ingress
	port       uint16
	sendsFirst bool // from a port that others may send to, so that the stack asks the filter about replies

	lastNoted atomic.Pointer[notedSend] // the last send that the filter has noted
}

// notedSend is a send to a destination.
type notedSend struct {
	to netip.AddrPort
	at time.Time
}

// noteAgain is after how long the filter has to note sends to the same destination again. The
// filter forgets the least recently used destinations.
const noteAgain = time.Second

// WriteTo implements net.PacketConn.
func (c *meshPacketConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if a, ok := addr.(*net.UDPAddr); ok {
		c.prepare(a.AddrPort())
	}
	return c.PacketConn.WriteTo(b, addr)
}

// WriteToUDPAddrPort is WriteTo without allocations.
func (c *meshPacketConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	c.prepare(to)
	return c.PacketConn.WriteToUDPAddrPort(b, to)
}

// prepare wakes the peer that a datagram is for, and has the filter let replies in.
func (c *meshPacketConn) prepare(to netip.AddrPort) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	c.g.dialer.wakePeer(c.g.plane.routes.Load().peer(to.Addr()))
	if !c.sendsFirst {
		return
	}
	now := time.Now()
	if last := c.lastNoted.Load(); last != nil && last.to == to && now.Sub(last.at) < noteAgain {
		return
	}
	c.lastNoted.Store(&notedSend{to, now})
	for _, own := range c.g.plane.stack.Addrs() {
		if own.Is4() == to.Addr().Is4() {
			c.g.member.mapper.filter.Sent(netip.AddrPortFrom(own, c.port), to)
		}
	}
}
