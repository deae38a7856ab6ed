package userstack

import (
	"net"
	"net/netip"
	"os"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog is how many connections may wait to be accepted, and how many may be in their handshake.
// The SYNs of further ones are dropped, and repeated by their senders. If handshakes are too many,
// the connections of further ones have no window scale and no selective acknowledgements, because
// gVisor keeps all it knows of them in a SYN cookie.
func (s *Stack) backlog() int { return s.synQueue.admission.places }

// Listener accepts TCP connections from the mesh. It is a net.Listener.
type Listener struct {
	socket
	s         *Stack
	local     *net.TCPAddr
	accepting deadline
}

// Listen accepts connections to addr. An unspecified or invalid IP means every address of the
// stack, in its family or in both; port 0 picks a free one. What arrives is still subject to the
// filter.
func (s *Stack) Listen(addr netip.AddrPort) (net.Listener, error) {
	if s.closed.Load() {
		return nil, opError(opListen, "tcp", nil, net.TCPAddrFromAddrPort(addr), net.ErrClosed)
	}
	wq := new(waiter.Queue)
	ep, terr := s.gv.NewEndpoint(tcp.ProtocolNumber, listenProtocol(addr.Addr()), wq)
	if terr == nil {
		terr = s.bindToOwn(ep)
	}
	if size := s.memory.listenSize(); terr == nil && size > 0 {
		ep.SocketOptions().SetReceiveBufferSize(int64(size), true)
	}
	if terr == nil {
		terr = s.bindListener(ep, addr)
	}
	if terr != nil {
		return nil, opError(opListen, "tcp", nil, net.TCPAddrFromAddrPort(addr), errorOf(terr))
	}
	l := &Listener{s: s}
	l.attach(s, ep, wq)
	local, terr := ep.GetLocalAddress()
	if terr != nil {
		l.Close()
		return nil, opError(opListen, "tcp", nil, net.TCPAddrFromAddrPort(addr), errorOf(terr))
	}
	l.local = &net.TCPAddr{IP: addr.Addr().AsSlice(), Port: int(local.Port)}
	if s.closed.Load() { // meanwhile, so that Close may have missed it
		l.Close()
		return nil, opError(opListen, "tcp", nil, net.TCPAddrFromAddrPort(addr), net.ErrClosed)
	}
	return l, nil
}

// listenProtocol is IPv6 for both families, as an endpoint of that takes IPv4 too.
func listenProtocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return protocolOf(a)
	}
	return protocolOf(netip.IPv6Unspecified())
}

// bindListener makes ep listen, or closes it.
func (s *Stack) bindListener(ep tcpip.Endpoint, addr netip.AddrPort) tcpip.Error {
	ep.SocketOptions().SetReuseAddress(true)
	fa := fullAddress(addr)
	fa.NIC = 0
	terr := ep.Bind(fa)
	if terr == nil {
		terr = ep.Listen(s.backlog())
	}
	if terr != nil {
		ep.Close()
	}
	return terr
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		if l.isClosed() {
			return nil, opError(opAccept, "tcp", nil, l.local, net.ErrClosed)
		}
		ep, wq, terr := l.ep.Accept(nil)
		if terr == nil {
			g, err := l.awaitMemory() // the others wait meanwhile, in the backlog or to enter it
			if err != nil {
				ep.Abort()
				return nil, opError(opAccept, "tcp", nil, l.local, err)
			}
			setConnOptions(ep)
			g.apply(ep)
			return newConn(l.s, g, ep, wq, l.s.mss(l.family(ep))), nil
		}
		if !wouldBlock(terr) {
			return nil, opError(opAccept, "tcp", nil, l.local, l.errorOf(terr))
		}
		if err := l.wait(l.readablec, &l.accepting); err != nil {
			return nil, opError(opAccept, "tcp", nil, l.local, err)
		}
	}
}

// awaitMemory waits for a share for a connection.
func (l *Listener) awaitMemory() (*share, error) {
	for {
		g, freec := l.s.memory.tryAcquire()
		if g != nil {
			return g, nil
		}
		select {
		case <-freec:
		case <-l.accepting.wait():
			return nil, os.ErrDeadlineExceeded
		case <-l.closec:
			return nil, net.ErrClosed
		case <-l.s.dev.closec:
			return nil, net.ErrClosed
		}
	}
}

// family returns an address of the family that ep speaks.
func (l *Listener) family(ep tcpip.Endpoint) netip.Addr {
	if a, err := ep.GetLocalAddress(); err == nil {
		return addrOf(a.Addr).Unmap()
	}
	return netip.IPv6Unspecified()
}

// Close implements net.Listener. Accepted connections live on; those still in the backlog are
// reset.
func (l *Listener) Close() error {
	if !l.release() {
		return opError(opClose, "tcp", nil, l.local, net.ErrClosed)
	}
	l.ep.Close()
	return nil
}

// Addr implements net.Listener; it is a *net.TCPAddr.
func (l *Listener) Addr() net.Addr { return l.local }

// SetDeadline bounds Accept, as net.TCPListener has it.
func (l *Listener) SetDeadline(t time.Time) error {
	l.accepting.set(t)
	return nil
}
