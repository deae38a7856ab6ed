package democmd

import (
	"net"
	"net/netip"
	"sync/atomic"

	"ginnel/node"
)

// gate is a firewall for UDP. Without it the nodes would find a direct path on loopback before they
// use the relay.
type gate struct{ open atomic.Bool }

// listen opens a socket behind the gate.
func (g *gate) listen(network string, addr netip.AddrPort) (node.PacketConn, error) {
	c, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	return &gatedConn{UDPConn: c, gate: g}, nil
}

type gatedConn struct {
	*net.UDPConn
	gate *gate
}

// WriteToUDPAddrPort drops the packet while the gate is closed.
func (c *gatedConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if !c.gate.open.Load() {
		return len(b), nil
	}
	return c.UDPConn.WriteToUDPAddrPort(b, to)
}
