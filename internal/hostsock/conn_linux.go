package hostsock

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
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

	reading, writing attempt
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

// attempt is a Read or a Write under way. One goroutine at a time makes either, as package net has it, and what it hands to the
// poller is made once, for it would be an allocation.
type attempt struct {
	mu   sync.Mutex
	b    []byte
	n    int   // bytes done
	err  error // of the last system call
	call func(fd uintptr) (done bool)
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	a := &c.reading
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.call == nil {
		a.call = a.read
	}
	n, err := a.make(c.raw.Read, b)
	switch {
	case err != nil:
		return 0, c.opError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	a := &c.writing
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.call == nil {
		a.call = a.write
	}
	n, err := a.make(c.raw.Write, b)
	if err != nil {
		return n, c.opError("write", err)
	}
	return n, nil
}

// make moves b by calls that wait waits for.
func (a *attempt) make(wait func(func(fd uintptr) (done bool)) error, b []byte) (int, error) {
	a.b, a.n, a.err = b, 0, nil
	err := wait(a.call)
	a.b = nil
	if err == nil {
		err = a.err
	}
	return a.n, err
}

func (a *attempt) read(fd uintptr) bool {
	n, err := nonblock.Read(fd, a.b)
	if err == unix.EAGAIN {
		return false
	}
	a.n, a.err = n, os.NewSyscallError("read", err)
	return true
}

func (a *attempt) write(fd uintptr) bool {
	for a.n < len(a.b) {
		n, err := nonblock.Write(fd, a.b[a.n:])
		if err == unix.EAGAIN {
			return false
		}
		if err != nil {
			a.err = os.NewSyscallError("write", err)
			break
		}
		a.n += n
	}
	return true
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
