package hostsock

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ginnel/internal/nonblock"
)

// Conn is a TCP connection as net.TCPConn is one.
type Conn struct {
	file   *os.File // only for the runtime's poller, which package os gives access to
	raw    rawConn
	remote *net.TCPAddr
	local  atomic.Pointer[net.TCPAddr] // nil until somebody asks
}

// newConn takes over fd, a socket that does not block.
func newConn(fd int, remote netip.AddrPort) (*Conn, error) {
	f, err := pollable(fd)
	if err != nil {
		return nil, err
	}
	c := &Conn{file: f, remote: net.TCPAddrFromAddrPort(remote)}
	if c.raw.RawConn, err = f.SyscallConn(); err != nil {
		f.Close()
		return nil, err
	}
	return c, nil
}

// pollable takes over fd and makes sure that the poller watches it: if not, package os says so only when somebody waits.
func pollable(fd int) (*os.File, error) {
	f := os.NewFile(uintptr(fd), "socket")
	if err := f.SetDeadline(time.Time{}); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// rawConn has the errors of package net.
type rawConn struct{ syscall.RawConn }

// Read implements syscall.RawConn.
func (r rawConn) Read(f func(fd uintptr) (done bool)) error { return netError(r.RawConn.Read(f)) }

// Write implements syscall.RawConn.
func (r rawConn) Write(f func(fd uintptr) (done bool)) error { return netError(r.RawConn.Write(f)) }

// Control implements syscall.RawConn.
func (r rawConn) Control(f func(fd uintptr)) error { return netError(r.RawConn.Control(f)) }

// netError turns an error of package os into that of package net: waiting ends by a deadline or because the conn is closed.
func netError(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return net.ErrClosed
}

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return &c.raw, nil }

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	var failed error
	err = c.raw.Read(func(fd uintptr) bool {
		n, failed = nonblock.Read(fd, b)
		return failed != unix.EAGAIN
	})
	switch {
	case err != nil:
		return 0, c.opError("read", err)
	case failed != nil:
		return 0, c.opError("read", os.NewSyscallError("read", failed))
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (done int, err error) {
	var failed error
	err = c.raw.Write(func(fd uintptr) bool {
		for done < len(b) {
			var n int
			if n, failed = nonblock.Write(fd, b[done:]); failed != nil {
				return failed != unix.EAGAIN
			}
			done += n
		}
		return true
	})
	switch {
	case err != nil:
		return done, c.opError("write", err)
	case failed != nil:
		return done, c.opError("write", os.NewSyscallError("write", failed))
	}
	return done, nil
}

// CloseWrite sends the end of the stream.
func (c *Conn) CloseWrite() error {
	var failed error
	if err := c.raw.Control(func(fd uintptr) { failed = nonblock.Shutdown(fd, unix.SHUT_WR) }); err != nil {
		return c.opError("close", err)
	}
	if failed != nil {
		return c.opError("close", os.NewSyscallError("shutdown", failed))
	}
	return nil
}

// SetLinger decides, as net.TCPConn does, what Close does with data not yet sent: 0 seconds drops it and resets the connection.
func (c *Conn) SetLinger(sec int) error {
	var failed error
	l := unix.Linger{Linger: int32(max(sec, 0))}
	if sec >= 0 {
		l.Onoff = 1
	}
	if err := c.raw.Control(func(fd uintptr) { failed = nonblock.SetLinger(fd, l) }); err != nil {
		return c.opError("set", err)
	}
	if failed != nil {
		return c.opError("set", os.NewSyscallError("setsockopt", failed))
	}
	return nil
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	if c.file.Close() != nil {
		return c.opError("close", net.ErrClosed)
	}
	return nil
}

// CloseEnded is Close for a connection both of whose streams have ended, or need not any more: the peer learns of it now, but
// the descriptor is given back a little later, together with others.
func (c *Conn) CloseEnded() error {
	err := c.raw.Control(func(fd uintptr) { nonblock.Shutdown(fd, unix.SHUT_RDWR) }) // fails where the peer has gone before
	if err != nil {
		return c.opError("close", err)
	}
	leftovers.add(c.file)
	return nil
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr {
	if a := c.local.Load(); a != nil {
		return a
	}
	a := new(net.TCPAddr)
	c.raw.Control(func(fd uintptr) {
		if ap, err := nonblock.LocalAddr(fd); err == nil {
			a = net.TCPAddrFromAddrPort(ap)
			c.local.Store(a)
		}
	})
	return a
}

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.deadlineError(c.file.SetDeadline(t)) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.deadlineError(c.file.SetReadDeadline(t)) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.deadlineError(c.file.SetWriteDeadline(t))
}

func (c *Conn) deadlineError(err error) error {
	if err != nil {
		return c.opError("set", net.ErrClosed)
	}
	return nil
}

func (c *Conn) opError(op string, err error) error {
	e := &net.OpError{Op: op, Net: "tcp", Addr: c.remote, Err: err}
	if a := c.local.Load(); a != nil {
		e.Source = a
	}
	return e
}
