package simnet

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// maxQueue is how many unread datagrams a Conn holds. Further ones are dropped, and counted as
	// QueueFull.
	maxQueue = 256
	// maxPayload is the largest payload of UDP over IPv4.
	maxPayload = 65507
)

// Conn is a UDP socket for both address families. It is a net.PacketConn and has the methods of
// net.UDPConn for netip addresses. Source addresses are never IPv4-mapped IPv6 addresses.
type Conn struct {
	host *Host
	port uint16

	// Guarded by host.net.mu.
	changed       *sync.Cond // signals a datagram, a new or passed deadline, and Close
	queue         []*packet
	readDeadline  time.Time
	writeDeadline time.Time
	timer         *time.Timer // for the read deadline
	closed        bool
}

var _ net.PacketConn = (*Conn)(nil)

func newConn(h *Host, port uint16) *Conn {
	return &Conn{host: h, port: port, changed: sync.NewCond(&h.net.mu)}
}

// ReadFromUDPAddrPort waits for a datagram and returns its source: if the sender is behind NATs,
// the public address of the outermost one. A datagram longer than b is truncated.
func (c *Conn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, netip.AddrPort{}, opError("read", net.ErrClosed)
		case passed(c.readDeadline):
			return 0, netip.AddrPort{}, opError("read", os.ErrDeadlineExceeded)
		case len(c.queue) > 0:
			p := c.queue[0]
			c.queue[0] = nil
			c.queue = c.queue[1:]
			return copy(b, p.payload), p.src, nil
		}
		c.changed.Wait()
	}
}

// WriteToUDPAddrPort sends a datagram. It never blocks. No error does not mean that the datagram
// arrives.
func (c *Conn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	switch {
	case c.closed:
		return 0, opError("write", net.ErrClosed)
	case passed(c.writeDeadline):
		return 0, opError("write", os.ErrDeadlineExceeded)
	case !to.Addr().IsValid() || to.Addr().IsUnspecified() || to.Port() == 0:
		return 0, opError("write", os.NewSyscallError("sendto", syscall.EINVAL))
	case len(b) > maxPayload:
		return 0, opError("write", os.NewSyscallError("sendto", syscall.EMSGSIZE))
	}
	now := time.Now()
	if err := c.host.sendLocked(now, c.port, to, b); err != nil {
		return 0, opError("write", err)
	}
	c.host.net.runLocked(now)
	return len(b), nil
}

// ReadFrom is ReadFromUDPAddrPort; its addresses are of type *net.UDPAddr.
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteTo is WriteToUDPAddrPort for a *net.UDPAddr.
func (c *Conn) WriteTo(b []byte, to net.Addr) (int, error) {
	addr, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, opError("write", errors.New("address is not a *net.UDPAddr"))
	}
	return c.WriteToUDPAddrPort(b, addr.AddrPort())
}

// LocalAddr returns the unspecified address with the socket's port.
func (c *Conn) LocalAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv6unspecified, Port: int(c.port)}
}

// SetDeadline sets both deadlines; the zero time means none.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline lets reads fail from t on, also those that wait now.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	if c.closed {
		return opError("set", net.ErrClosed)
	}
	c.readDeadline = t
	c.stopTimerLocked()
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		c.timer = time.AfterFunc(wait, c.wake)
	}
	c.changed.Broadcast()
	return nil
}

// SetWriteDeadline lets writes fail from t on.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	if c.closed {
		return opError("set", net.ErrClosed)
	}
	c.writeDeadline = t
	return nil
}

// Close frees the port and drops the unread datagrams.
func (c *Conn) Close() error {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	c.closeLocked()
	return nil
}

func (c *Conn) closeLocked() {
	if c.closed {
		return
	}
	c.closed = true
	c.queue = nil
	c.stopTimerLocked()
	delete(c.host.conns, c.port)
	delete(c.host.net.conns, c)
	c.changed.Broadcast()
}

func (c *Conn) stopTimerLocked() {
	if c.timer != nil {
		c.timer.Stop()
	}
}

// wake makes waiting reads check their deadline.
func (c *Conn) wake() {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	c.changed.Broadcast()
}

func (c *Conn) enqueueLocked(p *packet) {
	if len(c.queue) >= maxQueue {
		c.host.net.stats.QueueFull++
		return
	}
	c.host.net.stats.Delivered++
	c.queue = append(c.queue, p)
	c.changed.Signal()
}

func passed(deadline time.Time) bool {
	return !deadline.IsZero() && !time.Now().Before(deadline)
}

// opError returns an error as package net would.
func opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Err: err}
}
