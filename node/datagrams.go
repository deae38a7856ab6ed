package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ginnel/proxy"
	"ginnel/userstack"
)

// datagramConn is the far side of one UDP association of the proxy: a socket in the mesh and, once
// a datagram leaves the mesh, sockets of the host as well. WriteTo takes names.
//
// While there is only the mesh socket, AwaitRead and ReadBatch read it directly. With host sockets,
// each socket has a goroutine that reads it until Close, and passes datagrams on through received.
type datagramConn struct {
	d    *dialer
	life *lifetime
	mesh *userstack.PacketConn
	host hostSockets

	mu    sync.Mutex
	names map[string]resolvedName

	both     atomic.Bool   // a host socket is open, so that reads come from received
	pumping  bool          // readMesh was started; owned by AwaitRead
	next     datagram      // from received; owned by AwaitRead and ReadBatch
	corked   bool          // between Cork and Uncork; owned by these and WriteTo
	holding  bool          // the mesh socket is corked, until WriteTo has to wait; owned as corked
	received chan datagram // unbuffered
}

// datagram is a datagram that a goroutine has read. The goroutine waits for taken before it reuses
// b.
type datagram struct {
	b     []byte
	from  netip.AddrPort
	taken chan<- struct{}
}

// resolvedName is the address of a name, until its lifetime ends.
type resolvedName struct {
	addr  netip.Addr
	until time.Time
}

const (
	nameLifetime = time.Minute // of a resolved name within an association
	namesMax     = 256         // resolved names of an association; when there are more, all are forgotten

	maxPumpErrors = 100 // consecutive read errors after which a socket is no longer read
)

// listenDatagrams opens the far side of an association; it is proxy.Server.ListenPacket.
func (d *dialer) listenDatagrams(context.Context) (net.PacketConn, error) {
	mesh, err := d.plane.stack.ListenPacket(netip.AddrPort{})
	if err != nil {
		return nil, err
	}
	return &datagramConn{
		d:        d,
		life:     newLifetime(d.life.ctx),
		mesh:     mesh,
		names:    make(map[string]resolvedName),
		received: make(chan datagram),
	}, nil
}

// WriteTo implements net.PacketConn; addr is a *proxy.Addr.
func (c *datagramConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	dst, ok := addr.(*proxy.Addr)
	if !ok {
		return 0, errors.New("node: destination of a datagram is not a *proxy.Addr")
	}
	if err := c.awaitMesh(); err != nil {
		return 0, err
	}
	ip := dst.IP
	if !ip.IsValid() {
		var err error
		if ip, err = c.resolve(dst.Name); err != nil {
			return 0, err
		}
	}
	to := netip.AddrPortFrom(ip.Unmap().WithZone(""), dst.Port)
	r := c.d.plane.routes.Load()
	if !r.inMesh(to.Addr()) {
		return c.writeHost(b, netip.AddrPortFrom(ip.Unmap(), dst.Port))
	}
	peer := r.peer(to.Addr())
	if peer == nil && !r.isOwn(to.Addr()) {
		return 0, noPeerError(to.Addr())
	}
	c.d.wakePeer(peer)
	if c.corked && !c.holding {
		c.mesh.Cork()
		c.holding = true
	}
	return c.mesh.WriteToUDPAddrPort(b, to)
}

// awaitMesh waits until packets can be sent into the mesh, for the dial timeout at most.
func (c *datagramConn) awaitMesh() error {
	m := c.d.member
	if isClosed(c.d.plane.upc) && (m == nil || m.hasJoined()) {
		return nil
	}
	if c.life.isClosed() {
		return net.ErrClosed
	}
	c.uncorkMesh()
	ctx, cancel := c.life.withTimeout(c.d.cfg.dialTimeout())
	defer cancel()
	if m != nil {
		if err := m.await(ctx); err != nil {
			return err
		}
	}
	return c.d.plane.awaitUp(ctx)
}

// resolve returns one address for a name. It is remembered for nameLifetime, because an association
// sends many datagrams to few names.
func (c *datagramConn) resolve(name string) (netip.Addr, error) {
	c.mu.Lock()
	known, ok := c.names[name]
	c.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.addr, nil
	}
	if c.life.isClosed() {
		return netip.Addr{}, net.ErrClosed
	}
	c.uncorkMesh()
	ctx, cancel := c.life.withTimeout(c.d.cfg.dialTimeout())
	defer cancel()
	addrs, err := c.d.lookup(ctx, name)
	if err != nil {
		return netip.Addr{}, err
	}
	addrs = c.d.preferred(addrs)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.names) >= namesMax {
		clear(c.names)
	}
	c.names[name] = resolvedName{addrs[0], time.Now().Add(nameLifetime)}
	return addrs[0], nil
}

func (c *datagramConn) writeHost(b []byte, to netip.AddrPort) (int, error) {
	if err := c.d.mayLeave(to.Addr()); err != nil {
		return 0, err
	}
	if to.Port() == 0 {
		return 0, errPortZero
	}
	c.uncorkMesh()
	sock, err := c.host.open(to, c.serveHost)
	if err != nil {
		return 0, err
	}
	n, err := sock.WriteToUDPAddrPort(b, to)
	if !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EADDRNOTAVAIL) {
		return n, err
	}
	// The host no longer has the address that the socket is bound to.
	c.host.drop(sock)
	if sock, err = c.host.open(to, c.serveHost); err != nil {
		return 0, err
	}
	return sock.WriteToUDPAddrPort(b, to)
}

var errPortZero = errors.New("node: no datagram can be sent to port 0")

// serveHost starts to read a host socket. If the conn is closed, Close closes the socket.
func (c *datagramConn) serveHost(sock *net.UDPConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.both.Swap(true) {
		c.mesh.SetReadDeadline(time.Unix(1, 0)) // ends an AwaitRead that waits for the mesh socket alone
	}
	c.life.spawn(func() {
		c.pump(func(b []byte) (int, netip.AddrPort, error) { return c.readHost(sock, b) })
	})
}

// accepts reports whether a host on the host's network may send to the association: the association
// must have sent something to it, and its address must not belong to the mesh, which such a host
// could only pretend.
func (c *datagramConn) accepts(from netip.Addr) bool {
	return c.host.expects(from) && !c.d.plane.routes.Load().inMesh(from.Unmap().WithZone(""))
}

// readHost reads the next datagram that is accepted, and counts the others.
func (c *datagramConn) readHost(sock *net.UDPConn, b []byte) (int, netip.AddrPort, error) {
	for {
		n, from, err := sock.ReadFromUDPAddrPort(b)
		if err != nil || c.accepts(from.Addr()) {
			return n, from, err
		}
		c.d.foreignDatagrams.Add(1)
	}
}

// startMesh starts to read the mesh socket in a goroutine. It removes the deadline that serveHost
// has set under the same lock.
func (c *datagramConn) startMesh() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mesh.SetReadDeadline(time.Time{})
	return c.life.spawn(c.readMesh)
}

func (c *datagramConn) readMesh() { c.pump(c.mesh.ReadFromUDPAddrPort) }

// pump passes datagrams from one socket on, until the socket is closed.
func (c *datagramConn) pump(read func([]byte) (int, netip.AddrPort, error)) {
	b := make([]byte, userstack.MaxDatagram)
	taken := make(chan struct{}, 1)
	errs := 0 // consecutive
	for {
		n, from, err := read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// A single error may concern an earlier datagram, such as ECONNREFUSED after an ICMP
			// port unreachable. Many in a row mean that the socket is broken.
			if errs++; errs == maxPumpErrors {
				c.d.log.Warn("reading datagrams of an association ended", "err", err)
				return
			}
			continue
		}
		errs = 0
		select {
		case c.received <- datagram{b[:n], from, taken}:
		case <-c.life.ctx.Done():
			return
		}
		select {
		case <-taken:
		case <-c.life.ctx.Done():
			return
		}
	}
}

// AwaitRead blocks until ReadBatch has a datagram. AwaitRead and ReadBatch have one caller.
func (c *datagramConn) AwaitRead() error {
	if !c.both.Load() {
		err := c.mesh.AwaitRead()
		if !errors.Is(err, os.ErrDeadlineExceeded) || !c.both.Load() {
			return err
		}
	}
	if !c.pumping {
		if !c.startMesh() {
			return net.ErrClosed
		}
		c.pumping = true
	}
	if c.next.taken != nil {
		return nil
	}
	select {
	case c.next = <-c.received:
		return nil
	case <-c.life.ctx.Done():
		return net.ErrClosed
	}
}

// ReadBatch reads the datagrams that have arrived, without waiting.
func (c *datagramConn) ReadBatch(bufs [][]byte, sizes []int, from []netip.AddrPort) (int, error) {
	if d := c.next; d.taken != nil {
		sizes[0], from[0] = copy(bufs[0], d.b), netip.AddrPortFrom(d.from.Addr().Unmap(), d.from.Port())
		c.next = datagram{}
		d.taken <- struct{}{}
		return 1, nil
	}
	if c.both.Load() {
		return 0, nil
	}
	n, err := c.mesh.ReadBatch(bufs, sizes, from)
	if errors.Is(err, os.ErrDeadlineExceeded) && c.both.Load() {
		err = nil
	}
	return n, err
}

// ReadFrom implements net.PacketConn; the address is a *net.UDPAddr.
func (c *datagramConn) ReadFrom(b []byte) (int, net.Addr, error) {
	var size [1]int
	var from [1]netip.AddrPort
	for {
		if err := c.AwaitRead(); err != nil {
			return 0, nil, err
		}
		if n, err := c.ReadBatch([][]byte{b}, size[:], from[:]); n > 0 || err != nil {
			return size[0], net.UDPAddrFromAddrPort(from[0]), err
		}
	}
}

// Cork holds datagrams into the mesh back until Uncork, so that they leave together. Cork and
// Uncork have the same caller as WriteTo.
func (c *datagramConn) Cork() { c.corked = true }

// Uncork sends the datagrams that Cork has held back.
func (c *datagramConn) Uncork() {
	c.corked = false
	c.uncorkMesh()
}

// uncorkMesh uncorks the mesh socket before WriteTo waits for anything. A corked socket holds back
// all datagrams of the stack, including those of other sockets and the DNS query that WriteTo may
// wait for.
func (c *datagramConn) uncorkMesh() {
	if c.holding {
		c.holding = false
		c.mesh.Uncork()
	}
}

// Close implements net.PacketConn.
func (c *datagramConn) Close() error {
	c.life.close(c.shutDown)
	return nil
}

func (c *datagramConn) shutDown() {
	c.mesh.Close()
	c.host.close()
}

// LocalAddr implements net.PacketConn.
func (c *datagramConn) LocalAddr() net.Addr { return c.mesh.LocalAddr() }

// SetDeadline implements net.PacketConn. It is not supported: an association is ended by Close.
func (c *datagramConn) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetReadDeadline implements net.PacketConn.
func (c *datagramConn) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline implements net.PacketConn.
func (c *datagramConn) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }
