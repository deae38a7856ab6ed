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

// datagramConn is the far side of one UDP association of the proxy: a socket in the mesh, and from
// the first datagram that leaves the mesh on sockets of the host as well. WriteTo takes names.
//
// While there is only the mesh, it is read directly. To read the host's sockets at the same time,
// each socket has a goroutine; they end with Close.
type datagramConn struct {
	n    *Node
	mesh *userstack.PacketConn
	host hostSockets

	mu     sync.Mutex
	names  map[string]namedAddr
	closed bool

	both     atomic.Bool // a host's socket is open, so reads are from received
	pumping  bool        // readMesh was started; owned by AwaitRead
	next     datagram    // from received; owned by AwaitRead and ReadBatch
	corked   bool        // between Cork and Uncork; owned by these and WriteTo
	holding  bool        // mesh is corked, which lasts until WriteTo may wait; owned as corked
	received chan datagram
	closec   chan struct{}
	wg       sync.WaitGroup // goroutines start under mu, and none once closed
}

// datagram is one that a goroutine has read; it waits for taken before it uses b again.
type datagram struct {
	b     []byte
	from  netip.AddrPort
	taken chan<- struct{}
}

// namedAddr is a name that was resolved.
type namedAddr struct {
	addr  netip.Addr
	until time.Time
}

const (
	nameLifetime = time.Minute // of a resolved name within an association
	namesMax     = 256         // remembered; then all are forgotten

	maxPumpErrors = 100 // in a row, after which a socket is given up
)

// listenDatagrams opens the far side of an association; it is proxy.Server.ListenPacket.
func (n *Node) listenDatagrams(context.Context) (net.PacketConn, error) {
	mesh, err := n.stack.ListenPacket(netip.AddrPort{})
	if err != nil {
		return nil, err
	}
	return &datagramConn{
		n:        n,
		mesh:     mesh,
		names:    make(map[string]namedAddr),
		received: make(chan datagram),
		closec:   make(chan struct{}),
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
	r := c.n.routes.Load()
	if !r.inMesh(to.Addr()) {
		return c.writeHost(b, netip.AddrPortFrom(ip.Unmap(), dst.Port))
	}
	peer := r.peer(to.Addr())
	if peer == nil && !r.isOwn(to.Addr()) {
		return 0, noPeerError(to.Addr())
	}
	c.n.wakePeer(peer)
	if c.corked && !c.holding {
		c.mesh.Cork()
		c.holding = true
	}
	return c.mesh.WriteToUDPAddrPort(b, to)
}

// awaitMesh waits, as long as a connection would, until packets can be sent into the mesh.
func (c *datagramConn) awaitMesh() error {
	if isClosed(c.n.upc) && (c.n.member == nil || c.n.member.hasJoined()) {
		return nil
	}
	c.letGo()
	ctx, cancel := context.WithTimeout(context.Background(), c.n.cfg.dialTimeout())
	defer cancel()
	if !c.spawn(func() { c.cancelOnClose(ctx, cancel) }) {
		return net.ErrClosed
	}
	if m := c.n.member; m != nil {
		if err := m.await(ctx); err != nil {
			return err
		}
	}
	return c.n.awaitUp(ctx)
}

// resolve returns one address for a name, remembered for a while: an association sends many
// datagrams to few names.
func (c *datagramConn) resolve(name string) (netip.Addr, error) {
	c.mu.Lock()
	known, ok := c.names[name]
	c.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.addr, nil
	}
	c.letGo()
	ctx, cancel := context.WithTimeout(context.Background(), c.n.cfg.dialTimeout())
	defer cancel()
	if !c.spawn(func() { c.cancelOnClose(ctx, cancel) }) {
		return netip.Addr{}, net.ErrClosed
	}
	addrs, err := c.n.lookup(ctx, name)
	if err != nil {
		return netip.Addr{}, err
	}
	addrs = c.n.preferred(addrs)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.names) >= namesMax {
		clear(c.names)
	}
	c.names[name] = namedAddr{addrs[0], time.Now().Add(nameLifetime)}
	return addrs[0], nil
}

// spawn starts a goroutine unless the conn is closed.
func (c *datagramConn) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(f)
	return true
}

// cancelOnClose ends a lookup whose association has ended.
func (c *datagramConn) cancelOnClose(ctx context.Context, cancel context.CancelFunc) {
	select {
	case <-c.closec:
		cancel()
	case <-ctx.Done():
	}
}

func (c *datagramConn) writeHost(b []byte, to netip.AddrPort) (int, error) {
	if err := c.n.mayLeave(to.Addr()); err != nil {
		return 0, err
	}
	if to.Port() == 0 {
		return 0, errPortZero
	}
	c.letGo()
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

// serveHost has both sides read from here on.
func (c *datagramConn) serveHost(sock *net.UDPConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return // Close closes the socket, or has closed all of them
	}
	if !c.both.Swap(true) {
		c.mesh.SetReadDeadline(time.Unix(1, 0)) // ends an AwaitRead that knows only the mesh
	}
	c.wg.Go(func() {
		c.pump(func(b []byte) (int, netip.AddrPort, error) { return c.readHost(sock, b) })
	})
}

// hears reports whether a host on the host's network may send something to the association: the
// association must have sent something to that host. Nobody there is believed to be in the mesh.
func (c *datagramConn) hears(from netip.Addr) bool {
	return c.host.expects(from) && !c.n.routes.Load().inMesh(from.Unmap().WithZone(""))
}

// readHost reads a datagram from a host that may send it.
func (c *datagramConn) readHost(sock *net.UDPConn, b []byte) (int, netip.AddrPort, error) {
	for {
		n, from, err := sock.ReadFromUDPAddrPort(b)
		if err != nil || c.hears(from.Addr()) {
			return n, from, err
		}
		c.n.foreignDatagrams.Add(1)
	}
}

// startMesh has a goroutine read the mesh's side from here on. It undoes the deadline that
// serveHost, under the same lock, has set.
func (c *datagramConn) startMesh() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.mesh.SetReadDeadline(time.Time{})
	c.wg.Go(c.readMesh)
	return true
}

// readMesh passes on what arrives from the mesh.
func (c *datagramConn) readMesh() { c.pump(c.mesh.ReadFromUDPAddrPort) }

// pump passes on what arrives until its socket is closed.
func (c *datagramConn) pump(read func([]byte) (int, netip.AddrPort, error)) {
	b := make([]byte, userstack.MaxDatagram)
	taken := make(chan struct{}, 1)
	errs := 0 // in a row
	for {
		n, from, err := read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// One may be of an earlier datagram, such as a port that nobody listens on. Many, and the socket
			// is broken.
			if errs++; errs == maxPumpErrors {
				c.n.log.Warn("reading datagrams ended", "err", err)
				return
			}
			continue
		}
		errs = 0
		select {
		case c.received <- datagram{b[:n], from, taken}:
		case <-c.closec:
			return
		}
		select {
		case <-taken:
		case <-c.closec:
			return
		}
	}
}

// AwaitRead blocks until ReadBatch has something. These two have one caller.
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
	case <-c.closec:
		return net.ErrClosed
	}
}

// ReadBatch reads what has come, without waiting.
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

// Cork and Uncork have what is written between them leave together, as far as it goes into the
// mesh. They have the same caller as WriteTo.
func (c *datagramConn) Cork() { c.corked = true }

// Uncork ends a Cork.
func (c *datagramConn) Uncork() {
	c.corked = false
	c.letGo()
}

// letGo is called before WriteTo waits for anything. Every datagram of the stack is held by a cork
// of one socket: those of others must not wait too, and the answer to a look-up comes only when its
// question has left.
func (c *datagramConn) letGo() {
	if c.holding {
		c.holding = false
		c.mesh.Uncork()
	}
}

// Close implements net.PacketConn.
func (c *datagramConn) Close() error {
	c.shutDown()
	c.host.close()
	c.wg.Wait()
	return nil
}

func (c *datagramConn) shutDown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	close(c.closec)
	c.mesh.Close()
}

// LocalAddr implements net.PacketConn.
func (c *datagramConn) LocalAddr() net.Addr { return c.mesh.LocalAddr() }

// SetDeadline implements net.PacketConn; an association has no deadlines, it is closed.
func (c *datagramConn) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetReadDeadline implements net.PacketConn.
func (c *datagramConn) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline implements net.PacketConn.
func (c *datagramConn) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }
