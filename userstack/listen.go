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
// Further SYNs are dropped, and retransmitted by their senders. When too many handshakes are in
// progress, gVisor uses SYN cookies, and such connections have neither window scale nor SACK.
func (s *Stack) backlog() int { return s.synQueue.admission.places }

// Listener accepts TCP connections from peers. It is a net.Listener.
type Listener struct {
	socket
	s         *Stack
	local     *net.TCPAddr
	accepting deadline
}

// Listen accepts connections to addr. An unspecified or invalid IP address means all addresses of
// the stack, of its family or of both. Port 0 selects a free port. The filter still applies.
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
	if s.closed.Load() { // closed meanwhile: Stack.Close may have missed this listener
		l.Close()
		return nil, opError(opListen, "tcp", nil, net.TCPAddrFromAddrPort(addr), net.ErrClosed)
	}
	return l, nil
}

// listenProtocol is the network protocol of an endpoint that is bound to a. Unless a is IPv4, it is
// IPv6, because such an endpoint can also receive IPv4.
func listenProtocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return protocolOf(a)
	}
	return protocolOf(netip.IPv6Unspecified())
}

// bindListener makes ep listen on addr. On error it closes ep.
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
			g, err := l.awaitMemory() // meanwhile further connections wait in the backlog
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

// awaitMemory waits for a share of the memory.
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

// family returns an address of the family of ep.
func (l *Listener) family(ep tcpip.Endpoint) netip.Addr {
	if a, err := ep.GetLocalAddress(); err == nil {
		return addrOf(a.Addr).Unmap()
	}
	return netip.IPv6Unspecified()
}

// Close implements net.Listener. Accepted connections stay open; those in the backlog are reset.
func (l *Listener) Close() error {
	if !l.release() {
		return opError(opClose, "tcp", nil, l.local, net.ErrClosed)
	}
	l.ep.Close()
	return nil
}

// Addr implements net.Listener; it is a *net.TCPAddr.
func (l *Listener) Addr() net.Addr { return l.local }

// SetDeadline sets the deadline of Accept, as for net.TCPListener.
func (l *Listener) SetDeadline(t time.Time) error {
	l.accepting.set(t)
	return nil
}
