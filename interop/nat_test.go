package interop

import (
	"net"
	"net/netip"
	"sync"
	"testing"
)

// nat is a NAT router on loopback with one host behind it. It has an inside socket for each
// destination. What the host sends to that socket leaves to the destination from the outside
// socket, and the destination's answers come back from the inside socket.
type nat struct {
	wg sync.WaitGroup

	mu     sync.Mutex
	out    *net.UDPConn // the outside socket
	host   netip.AddrPort
	inside map[netip.AddrPort]*net.UDPConn // by destination
}

func newNAT(tb testing.TB) *nat {
	tb.Helper()
	n := &nat{inside: make(map[netip.AddrPort]*net.UDPConn)}
	n.rebind(tb)
	tb.Cleanup(n.close)
	return n
}

// rebind replaces the outside socket, so that the host gets another outside port.
func (n *nat) rebind(tb testing.TB) {
	tb.Helper()
	c := listenLoopback(tb)
	n.mu.Lock()
	old := n.out
	n.out = c
	n.mu.Unlock()
	if old != nil {
		old.Close()
	}
	n.wg.Go(func() { n.inward(c) })
}

func listenLoopback(tb testing.TB) *net.UDPConn {
	tb.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		tb.Fatal(err)
	}
	c.SetReadBuffer(4 << 20)
	return c
}

// insideAddr returns the address to which the host sends for a destination.
func (n *nat) insideAddr(tb testing.TB, destination netip.AddrPort) netip.AddrPort {
	tb.Helper()
	c := listenLoopback(tb)
	n.mu.Lock()
	n.inside[destination] = c
	n.mu.Unlock()
	n.wg.Go(func() { n.outward(c, destination) })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// outside returns the address that destinations see.
func (n *nat) outside() netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.out.LocalAddr().(*net.UDPAddr).AddrPort()
}

func (n *nat) outward(socket *net.UDPConn, to netip.AddrPort) {
	buf := make([]byte, 1<<16)
	for {
		size, from, err := socket.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		n.mu.Lock()
		n.host = from
		out := n.out
		n.mu.Unlock()
		out.WriteToUDPAddrPort(buf[:size], to)
	}
}

func (n *nat) inward(out *net.UDPConn) {
	buf := make([]byte, 1<<16)
	for {
		size, from, err := out.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		n.mu.Lock()
		socket, host := n.inside[from], n.host
		n.mu.Unlock()
		if socket != nil && host.IsValid() {
			socket.WriteToUDPAddrPort(buf[:size], host)
		}
	}
}

func (n *nat) close() {
	n.mu.Lock()
	conns := []*net.UDPConn{n.out}
	for _, c := range n.inside {
		conns = append(conns, c)
	}
	n.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	n.wg.Wait()
}
