package hostsock

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ginnel/internal/nonblock"
)

// Conn is a TCP connection as net.TCPConn is one.
type Conn struct {
	file          *os.File // only for the runtime's poller, which package os gives access to
	raw           rawConn
	local, remote *net.TCPAddr

	reading, writing attempt
}

// newConn takes over fd, a socket that does not block.
func newConn(fd int, remote netip.AddrPort) (*Conn, error) {
	local, err := nonblock.LocalAddr(uintptr(fd))
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("getsockname", err)
	}
	c := &Conn{local: tcpAddr(local), remote: tcpAddr(remote)}
	c.file = os.NewFile(uintptr(fd), "socket")
	if err := c.raw.open(c.file); err != nil {
		c.file.Close()
		return nil, err
	}
	return c, nil
}

// rawConn has the errors of package net.
type rawConn struct {
	syscall.RawConn
	ended atomic.Bool // closed, as far as anybody can see
}

// open makes sure that the poller watches f: if not, package os says so only to those who wait.
func (r *rawConn) open(f *os.File) (err error) {
	if err := f.SetDeadline(time.Time{}); err != nil {
		return os.NewSyscallError("epoll_ctl", unix.ENOMEM) // or another lack, which package os has kept to itself
	}
	r.RawConn, err = f.SyscallConn()
	return err
}

// Read implements syscall.RawConn.
func (r *rawConn) Read(f func(fd uintptr) (done bool)) error {
	if r.ended.Load() {
		return net.ErrClosed
	}
	return r.netError(r.RawConn.Read(f))
}

// Write implements syscall.RawConn.
func (r *rawConn) Write(f func(fd uintptr) (done bool)) error {
	if r.ended.Load() {
		return net.ErrClosed
	}
	return r.netError(r.RawConn.Write(f))
}

// Control implements syscall.RawConn.
func (r *rawConn) Control(f func(fd uintptr)) error {
	if r.ended.Load() {
		return net.ErrClosed
	}
	return r.netError(r.RawConn.Control(f))
}

// netError turns an error of package os into that of package net: waiting ends by a deadline or
// because the conn is closed.
func (r *rawConn) netError(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) && !r.ended.Load() {
		return err
	}
	return net.ErrClosed
}

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return &c.raw, nil }

// attempt is a Read or a Write under way. One goroutine at a time makes either, as package net has
// it: a second waits for mu until the first is done, or ends by a deadline or by Close. What is
// handed to the poller is made once, for it would be an allocation.
type attempt struct {
	mu   sync.Mutex
	b    []byte
	n    int   // bytes done
	err  error // of the last system call
	call func(fd uintptr) (done bool)
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	a := &c.reading
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.call == nil {
		a.call = a.read
	}
	n, err := a.run(c.raw.Read, b)
	switch {
	case err != nil:
		return 0, c.opError("read", err)
	case n == 0 && len(b) > 0:
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
	n, err := a.run(c.raw.Write, b)
	if err != nil {
		return n, c.opError("write", err)
	}
	return n, nil
}

// run moves b by calls that wait waits for.
func (a *attempt) run(wait func(func(fd uintptr) (done bool)) error, b []byte) (int, error) {
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
	return c.control("close", "shutdown", func(fd uintptr) error { return nonblock.Shutdown(fd, unix.SHUT_WR) })
}

// SetLinger decides, as net.TCPConn does, what Close does with data not yet sent: 0 seconds drops
// it and resets the connection.
func (c *Conn) SetLinger(sec int) error {
	l := unix.Linger{Linger: int32(max(sec, 0))}
	if sec >= 0 {
		l.Onoff = 1
	}
	return c.control("set", "setsockopt", func(fd uintptr) error { return nonblock.SetLinger(fd, l) })
}

func (c *Conn) control(op, call string, f func(fd uintptr) error) error {
	var failed error
	err := c.raw.Control(func(fd uintptr) { failed = os.NewSyscallError(call, f(fd)) })
	if err == nil {
		err = failed
	}
	if err != nil {
		return c.opError(op, err)
	}
	return nil
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	if c.raw.ended.Swap(true) {
		return c.opError("close", net.ErrClosed)
	}
	c.file.Close()
	return nil
}

// CloseEnded is Close for a connection both of whose streams have ended, or need not any more: the
// peer learns of it now, but the descriptor is given back a little later, together with others.
func (c *Conn) CloseEnded() error {
	err := c.raw.Control(func(fd uintptr) { nonblock.Shutdown(fd, unix.SHUT_RDWR) }) // fails where the peer has gone before
	if err != nil || c.raw.ended.Swap(true) {
		return c.opError("close", net.ErrClosed)
	}
	leftovers.add(c.file)
	return nil
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadline(c.file.SetDeadline, t) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(c.file.SetReadDeadline, t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(c.file.SetWriteDeadline, t) }

func (c *Conn) setDeadline(set func(time.Time) error, t time.Time) error {
	if c.raw.ended.Load() || set(t) != nil {
		return c.opError("set", net.ErrClosed)
	}
	return nil
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// IsStream reports whether x is a stream socket of this host, of this package or of package net.
// Reads and writes by its SyscallConn do not block.
func IsStream(x any) bool {
	if _, unix := x.(*net.UnixConn); unix {
		return true
	}
	return IsTCP(x)
}

// IsTCP reports whether x is a TCP socket of this host.
func IsTCP(x any) bool {
	switch x.(type) {
	case *Conn, *net.TCPConn:
		return true
	}
	return false
}

// tcpAddr is an address as package net has it, whose zones have names.
func tcpAddr(a netip.AddrPort) *net.TCPAddr {
	t := net.TCPAddrFromAddrPort(a)
	if index, err := strconv.Atoi(t.Zone); err == nil {
		if i, err := net.InterfaceByIndex(index); err == nil {
			t.Zone = i.Name
		}
	}
	return t
}
