package userstack

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// MaxDatagram is the largest UDP payload in bytes. Datagrams above the MTU are sent in IP
// fragments.
const MaxDatagram = 65507

// PacketConn is a UDP socket of the stack. It is a net.PacketConn and, if connected, a net.Conn.
//
// A socket that is connected, or was opened on port 0, is a client: it receives only from addresses
// that it has sent to. A socket on a given port is a service, and the filter decides who reaches
// it.
type PacketConn struct {
	socket
	deadlines
	s            *Stack
	local        netip.AddrPort
	remote       netip.AddrPort // zero unless connected
	port         uint16         // the port in Device.clientPorts; 0 for a service
	destinations *destinations  // nil unless the socket is a client and not connected

	// Arguments of gVisor calls; fields, so that they are not allocated per datagram.
	rmu      sync.Mutex // one reader at a time
	readBuf  tcpip.SliceWriter
	wmu      sync.Mutex // one writer at a time
	writeBuf bytes.Reader
	writeTo  tcpip.FullAddress
}

// ListenPacket opens a UDP socket on addr. An unspecified or invalid IP address means all addresses
// of the stack. Port 0 selects a free port and makes the socket a client; see PacketConn.
func (s *Stack) ListenPacket(addr netip.AddrPort) (*PacketConn, error) {
	c, err := s.newPacketConn(addr, netip.AddrPort{})
	if err != nil {
		return nil, opError(opListen, "udp", nil, net.UDPAddrFromAddrPort(addr), err)
	}
	return c, nil
}

func (s *Stack) dialUDP(remote netip.AddrPort) (net.Conn, error) {
	c, err := s.newPacketConn(netip.AddrPort{}, remote)
	if err != nil {
		return nil, opError(opDial, "udp", nil, net.UDPAddrFromAddrPort(remote), err)
	}
	return c, nil
}

func (s *Stack) newPacketConn(local, remote netip.AddrPort) (*PacketConn, error) {
	if s.closed.Load() {
		return nil, net.ErrClosed
	}
	proto := listenProtocol(local.Addr())
	if remote.IsValid() {
		proto = protocolOf(remote.Addr())
	}
	wq := new(waiter.Queue)
	ep, terr := s.gv.NewEndpoint(udp.ProtocolNumber, proto, wq)
	if terr != nil {
		return nil, errorOf(terr)
	}
	terr = s.bindToOwn(ep)
	var bound netip.AddrPort
	if terr == nil {
		bound, terr = bindPacket(ep, local, remote)
	}
	if terr != nil {
		ep.Close()
		return nil, errorOf(terr)
	}
	c := &PacketConn{s: s, remote: remote, local: netip.AddrPortFrom(local.Addr(), bound.Port())}
	if remote.IsValid() {
		c.local = bound
	}
	if local.Port() == 0 {
		c.port = bound.Port()
		s.dev.clientPorts.add(c.port)
	}
	if local.Port() == 0 && !remote.IsValid() {
		c.destinations = newDestinations()
	}
	c.attach(s, ep, wq)
	if s.closed.Load() { // closed meanwhile: Stack.Close may have missed this socket
		c.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// bindPacket binds ep to local, or connects it to remote if that is valid. It returns the local
// address.
func bindPacket(ep tcpip.Endpoint, local, remote netip.AddrPort) (netip.AddrPort, tcpip.Error) {
	var terr tcpip.Error
	if remote.IsValid() {
		terr = ep.Connect(fullAddress(remote))
	} else {
		fa := fullAddress(local)
		fa.NIC = 0
		terr = ep.Bind(fa)
	}
	if terr != nil {
		return netip.AddrPort{}, terr
	}
	a, terr := ep.GetLocalAddress()
	return addrPortOf(a), terr
}

// ReadFromUDPAddrPort receives one datagram and returns its source. A datagram longer than b is
// truncated.
func (c *PacketConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		n, from, err := c.read(b)
		if err != nil {
			return 0, netip.AddrPort{}, opError(opRead, "udp", c.LocalAddr(), nil, err)
		}
		if c.destinations == nil || c.destinations.has(from) {
			return n, from, nil
		}
		c.s.dev.filtered.Add(1)
	}
}

func (c *PacketConn) read(b []byte) (int, netip.AddrPort, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	for {
		n, from, err := c.tryRead(b)
		if err != errNoDatagram {
			return n, from, err
		}
		if err := c.wait(c.readablec, &c.readDeadline); err != nil {
			return 0, netip.AddrPort{}, err
		}
	}
}

// errNoDatagram means that no datagram is waiting.
var errNoDatagram = errors.New("no datagram")

// tryRead is read without waiting. The caller holds rmu.
func (c *PacketConn) tryRead(b []byte) (int, netip.AddrPort, error) {
	if err := c.check(&c.readDeadline); err != nil {
		return 0, netip.AddrPort{}, err
	}
	c.readBuf = b
	res, terr := c.ep.Read(&c.readBuf, tcpip.ReadOptions{NeedRemoteAddr: true})
	c.readBuf = nil
	_, short := terr.(*tcpip.ErrBadBuffer) // b is empty
	switch {
	case terr == nil || short:
		from := addrPortOf(res.RemoteAddr)
		return min(res.Count, len(b)), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), nil
	case wouldBlock(terr):
		return 0, netip.AddrPort{}, errNoDatagram
	}
	return 0, netip.AddrPort{}, c.errorOf(terr)
}

// AwaitRead blocks until a datagram may be waiting.
func (c *PacketConn) AwaitRead() error {
	for {
		if err := c.check(&c.readDeadline); err != nil {
			return opError(opRead, "udp", c.LocalAddr(), nil, err)
		}
		if c.ep.Readiness(waiter.ReadableEvents|waiter.EventErr|waiter.EventHUp) != 0 {
			return nil
		}
		if err := c.wait(c.readablec, &c.readDeadline); err != nil {
			return opError(opRead, "udp", c.LocalAddr(), nil, err)
		}
	}
}

// ReadBatch receives the datagrams that are waiting, up to one in each of bufs, with their sizes
// and sources. It returns how many, which may be 0; it does not block. A datagram longer than its
// buffer is truncated.
func (c *PacketConn) ReadBatch(bufs [][]byte, sizes []int, from []netip.AddrPort) (n int, err error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	for n < len(bufs) {
		size, addr, err := c.tryRead(bufs[n])
		switch {
		case err == errNoDatagram:
			return n, nil
		case err != nil && n > 0:
			return n, nil // if the error persists, the next call returns it
		case err != nil:
			return 0, opError(opRead, "udp", c.LocalAddr(), nil, err)
		case c.destinations != nil && !c.destinations.has(addr):
			c.s.dev.filtered.Add(1)
		default:
			sizes[n], from[n] = size, addr
			n++
		}
	}
	return n, nil
}

// Cork delays the sending of written datagrams until Uncork, or until there are many, so that they
// leave in one batch. It may also delay datagrams of other sockets of the stack.
func (c *PacketConn) Cork() { c.s.dev.corked.Add(1) }

// Uncork ends one Cork and sends what it has delayed.
func (c *PacketConn) Uncork() {
	c.s.dev.corked.Add(-1)
	c.s.dev.notifyReadable()
}

// WriteToUDPAddrPort sends one datagram of at most MaxDatagram bytes.
func (c *PacketConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if c.destinations != nil {
		c.destinations.add(to)
	}
	n, err := c.write(b, to)
	if err != nil {
		return 0, opError(opWrite, "udp", c.LocalAddr(), net.UDPAddrFromAddrPort(to), err)
	}
	return n, nil
}

func (c *PacketConn) write(b []byte, to netip.AddrPort) (int, error) {
	if len(b) > MaxDatagram {
		return 0, errorOf(&tcpip.ErrMessageTooLong{})
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	defer c.writeBuf.Reset(nil)
	var opts tcpip.WriteOptions
	if !c.remote.IsValid() {
		c.writeTo = fullAddress(to)
		opts.To = &c.writeTo
	}
	for {
		if err := c.check(&c.writeDeadline); err != nil {
			return 0, err
		}
		c.writeBuf.Reset(b)
		n, terr := c.ep.Write(&c.writeBuf, opts)
		if terr == nil {
			return int(n), nil
		}
		if !wouldBlock(terr) {
			return 0, c.errorOf(terr)
		}
		c.s.dev.notifyReadable() // the queue may be full of datagrams that are corked
		if err := c.wait(c.writablec, &c.writeDeadline); err != nil {
			return 0, err
		}
	}
}

// ReadFrom implements net.PacketConn; the address is a *net.UDPAddr.
func (c *PacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteTo implements net.PacketConn; to must be a *net.UDPAddr.
func (c *PacketConn) WriteTo(b []byte, to net.Addr) (int, error) {
	ua, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, opError(opWrite, "udp", c.LocalAddr(), to, errNotUDP)
	}
	return c.WriteToUDPAddrPort(b, ua.AddrPort())
}

var errNotUDP = errors.New("destination is not a UDP address")

// Read implements net.Conn for a connected socket.
func (c *PacketConn) Read(b []byte) (int, error) {
	n, _, err := c.ReadFromUDPAddrPort(b)
	return n, err
}

// Write implements net.Conn for a connected socket.
func (c *PacketConn) Write(b []byte) (int, error) { return c.WriteToUDPAddrPort(b, c.remote) }

// Close implements net.PacketConn.
func (c *PacketConn) Close() error {
	if !c.release() {
		return opError(opClose, "udp", c.LocalAddr(), nil, net.ErrClosed)
	}
	if c.port != 0 {
		c.s.dev.clientPorts.remove(c.port)
	}
	c.ep.Close()
	return nil
}

// LocalAddr implements net.PacketConn; it is a *net.UDPAddr.
func (c *PacketConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.local) }

// RemoteAddr implements net.Conn; it is nil unless the socket is connected.
func (c *PacketConn) RemoteAddr() net.Addr {
	if !c.remote.IsValid() {
		return nil
	}
	return net.UDPAddrFromAddrPort(c.remote)
}

var (
	_ net.PacketConn = (*PacketConn)(nil)
	_ net.Conn       = (*PacketConn)(nil)
)

// maxDestinations is how many destinations one generation of a client socket holds.
const maxDestinations = 4096

// destinations are the addresses that a client socket has sent to. There are two generations: when
// the new one is full, the old one is forgotten. So the set stays bounded without a clock.
type destinations struct {
	mu   sync.Mutex
	last netip.AddrPort // the latest one; saves map lookups when one destination gets many datagrams
	now  map[netip.AddrPort]struct{}
	old  map[netip.AddrPort]struct{}
}

func newDestinations() *destinations { return &destinations{now: make(map[netip.AddrPort]struct{})} }

func (s *destinations) add(a netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a == s.last {
		return
	}
	if len(s.now) >= maxDestinations {
		s.old, s.now = s.now, make(map[netip.AddrPort]struct{})
	}
	s.now[a] = struct{}{}
	s.last = a
}

func (s *destinations) has(a netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a == s.last {
		return true
	}
	_, now := s.now[a]
	_, old := s.old[a]
	return now || old
}
