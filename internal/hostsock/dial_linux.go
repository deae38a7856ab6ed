package hostsock

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ginnel/internal/nonblock"
)

// Dial connects to an address as net.Dialer does.
func Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if to.Addr().Zone() != "" {
		return new(net.Dialer).DialContext(ctx, "tcp", to.String()) // which knows the numbers of zones
	}
	c, err := dial(ctx, netip.AddrPortFrom(reached(to.Addr().Unmap()), to.Port()))
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return c, nil
}

// reached is where the system leads who asks for a: to itself if a is none.
func reached(a netip.Addr) netip.Addr {
	switch a {
	case netip.IPv4Unspecified():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case netip.IPv6Unspecified():
		return netip.IPv6Loopback()
	}
	return a
}

func dial(ctx context.Context, to netip.AddrPort) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fd, err := nonblock.Socket(to.Addr().Is4())
	if leftovers.makeRoom(err) {
		fd, err = nonblock.Socket(to.Addr().Is4())
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	setOptions(uintptr(fd))
	if err := nonblock.Connect(uintptr(fd), to); err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	c, err := newConn(fd, to)
	if err != nil {
		return nil, err
	}
	if err := c.established(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// established waits until the connection stands. On the host itself it mostly does already.
func (c *Conn) established(ctx context.Context) error {
	stop := func() bool { return true }
	watched := false
	var failed error
	err := c.raw.Write(func(fd uintptr) bool {
		switch events := nonblock.Poll(fd, unix.POLLOUT); {
		case events&(unix.POLLERR|unix.POLLHUP) != 0:
			failed = nonblock.Error(fd)
			if failed == nil {
				failed = syscall.ECONNRESET // has come to stand, and gone
			}
			return true
		case events&unix.POLLOUT != 0:
			return true
		}
		if !watched {
			watched = true
			stop = context.AfterFunc(ctx, func() { c.file.SetWriteDeadline(time.Unix(1, 0)) })
		}
		return false
	})
	if !stop() { // ctx has ended
		return ctx.Err()
	}
	switch {
	case err != nil:
		return err
	case failed != nil:
		return os.NewSyscallError("connect", failed)
	case c.isSelf():
		return os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	return nil
}

// isSelf reports whether the socket is connected to itself, as happens when nobody listens on a port that is one of those given to
// those who dial (RFC 9293, section 3.5: a simultaneous open).
func (c *Conn) isSelf() bool { return c.local.Port == c.remote.Port && c.local.IP.Equal(c.remote.IP) }
