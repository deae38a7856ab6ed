//go:build linux && !ginnel_stdnet

package sys

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func dialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if to.Addr().Zone() != "" {
		return new(net.Dialer).DialContext(ctx, "tcp", to.String()) // package net maps zone names to numbers
	}
	c, err := dialRepeatedly(ctx, netip.AddrPortFrom(canonical(to.Addr().Unmap()), to.Port()))
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return c, nil
}

// canonical maps the unspecified address to loopback, as connect(2) does: dialing 0.0.0.0 or ::
// reaches this host.
func canonical(a netip.Addr) netip.Addr {
	switch a {
	case netip.IPv4Unspecified():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case netip.IPv6Unspecified():
		return netip.IPv6Loopback()
	}
	return a
}

// How long an attempt to connect to loopback may take: the first, and the last ones. Each takes
// twice the time of the one before.
const (
	firstPatience = 10 * time.Millisecond
	lastPatience  = 640 * time.Millisecond
)

// errNoAnswer is the error of an attempt that took too long.
var errNoAnswer = errors.New("no answer yet")

// dialRepeatedly dials until there is an answer. A handshake on loopback takes microseconds, except
// when the backlog of the listener is full. The kernel then drops the SYN and repeats it after a
// second, and more and more seldom. So this function gives the attempt up long before that and
// makes another.
func dialRepeatedly(ctx context.Context, to netip.AddrPort) (*TCPConn, error) {
	if !to.Addr().IsLoopback() {
		return dialOnce(ctx, to, 0)
	}
	for patience := firstPatience; ; patience = min(2*patience, lastPatience) {
		c, err := dialOnce(ctx, to, patience)
		if err != errNoAnswer {
			return c, err
		}
	}
}

// dialOnce makes one attempt. If patience is not 0 and there is no answer for so long, it returns
// errNoAnswer.
func dialOnce(ctx context.Context, to netip.AddrPort, patience time.Duration) (*TCPConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fd, err := tcpSocket(to.Addr())
	if deferred.makeRoom(err) {
		fd, err = tcpSocket(to.Addr())
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	setTCPOptions(uintptr(fd))
	if err := connect(uintptr(fd), to); err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	c, err := newConn(fd, to)
	if err != nil {
		return nil, err
	}
	if err := c.established(ctx, patience); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// established waits until the connection is established. On loopback it usually is already.
func (c *TCPConn) established(ctx context.Context, patience time.Duration) error {
	stop := func() bool { return true }
	waited := false
	var failed error
	err := c.raw.Write(func(fd uintptr) bool {
		switch events := Poll(fd, PollOut); {
		case events&(PollErr|PollHup) != 0:
			failed = socketError(fd)
			if failed == nil {
				failed = syscall.ECONNRESET // it was established and reset again
			}
			return true
		case events&PollOut != 0:
			return true
		}
		if !waited {
			waited = true
			if patience > 0 {
				c.file.SetWriteDeadline(time.Now().Add(patience))
			}
			stop = context.AfterFunc(ctx, func() { c.file.SetWriteDeadline(time.Unix(1, 0)) })
		}
		return false
	})
	if !stop() { // ctx has ended
		return ctx.Err()
	}
	switch {
	case err != nil && errors.Is(err, os.ErrDeadlineExceeded):
		return errNoAnswer
	case err != nil:
		return err
	case failed != nil:
		return os.NewSyscallError("connect", failed)
	case c.isSelf():
		return os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	if waited {
		c.file.SetWriteDeadline(time.Time{})
	}
	return nil
}

// isSelf reports whether the socket is connected to itself. That happens if nobody listens on a
// port that the kernel also gives to outgoing connections (RFC 9293, section 3.5: simultaneous
// open).
func (c *TCPConn) isSelf() bool {
	return c.local.Port == c.remote.Port && c.local.IP.Equal(c.remote.IP)
}
