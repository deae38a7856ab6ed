//go:build linux && !ginnel_stdnet

package sys

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
)

// TCPConn is a TCP connection with the methods and errors of net.TCPConn.
type TCPConn struct {
	file          *os.File // gives access to the runtime's poller
	raw           rawConn
	local, remote *net.TCPAddr

	reading, writing attempt
}

// newConn takes ownership of fd, a non-blocking socket.
func newConn(fd int, remote netip.AddrPort) (*TCPConn, error) {
	local, err := localAddr(uintptr(fd))
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("getsockname", err)
	}
	c := &TCPConn{local: tcpAddr(local), remote: tcpAddr(remote)}
	c.file = os.NewFile(uintptr(fd), "socket")
	if err := c.raw.open(c.file); err != nil {
		c.file.Close()
		return nil, err
	}
	return c, nil
}

// rawConn is a RawConn with the errors of package net.
type rawConn struct {
	syscall.RawConn
	ended atomic.Bool // closed for callers; the descriptor may be open a little longer
}

// open makes sure that the poller watches f. If it cannot, package os would say so only to a caller
// that has to wait.
func (r *rawConn) open(f *os.File) (err error) {
	if err := f.SetDeadline(time.Time{}); err != nil {
		return os.NewSyscallError("epoll_ctl", unix.ENOMEM) // the usual reason; package os does not pass the real one on
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

// netError converts an error of package os into one of package net. Waiting ends by a deadline or
// by Close.
func (r *rawConn) netError(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) && !r.ended.Load() {
		return err
	}
	return net.ErrClosed
}

// SyscallConn implements syscall.Conn.
func (c *TCPConn) SyscallConn() (syscall.RawConn, error) { return &c.raw, nil }

// attempt is a Read or a Write in progress. As in package net, one goroutine at a time reads and
// one writes; a second waits for mu until the first has ended. call is made once because a method
// value is an allocation.
type attempt struct {
	mu   sync.Mutex
	b    []byte
	n    int   // bytes done
	err  error // of the last system call
	call func(fd uintptr) (done bool)
}

// Read implements net.Conn.
func (c *TCPConn) Read(b []byte) (int, error) {
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
func (c *TCPConn) Write(b []byte) (int, error) {
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

// run moves b by attempt.call, which wait repeats whenever the socket is ready.
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
	n, err := Read(fd, a.b)
	if err == unix.EAGAIN {
		return false
	}
	a.n, a.err = n, os.NewSyscallError("read", err)
	return true
}

func (a *attempt) write(fd uintptr) bool {
	for a.n < len(a.b) {
		n, err := Write(fd, a.b[a.n:])
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
func (c *TCPConn) CloseWrite() error {
	return c.control("close", "shutdown", func(fd uintptr) error { return shutdown(fd, unix.SHUT_WR) })
}

// SetLinger sets what Close does with unsent data, as net.TCPConn does: 0 seconds drops it and
// resets the connection.
func (c *TCPConn) SetLinger(sec int) error {
	l := unix.Linger{Linger: int32(max(sec, 0))}
	if sec >= 0 {
		l.Onoff = 1
	}
	return c.control("set", "setsockopt", func(fd uintptr) error { return setLinger(fd, l) })
}

func (c *TCPConn) control(op, call string, f func(fd uintptr) error) error {
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
func (c *TCPConn) Close() error {
	if c.raw.ended.Swap(true) {
		return c.opError("close", net.ErrClosed)
	}
	c.file.Close()
	return nil
}

// CloseEnded closes a connection both of whose streams have ended or are not needed any more. The
// peer learns of it now; the descriptor is closed up to 50 ms later, together with others.
func (c *TCPConn) CloseEnded() error {
	// an error means that the peer has closed first
	err := c.raw.Control(func(fd uintptr) { shutdown(fd, unix.SHUT_RDWR) })
	if err != nil || c.raw.ended.Swap(true) {
		return c.opError("close", net.ErrClosed)
	}
	deferred.add(c.file)
	return nil
}

// LocalAddr implements net.Conn.
func (c *TCPConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *TCPConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *TCPConn) SetDeadline(t time.Time) error { return c.setDeadline(c.file.SetDeadline, t) }

// SetReadDeadline implements net.Conn.
func (c *TCPConn) SetReadDeadline(t time.Time) error { return c.setDeadline(c.file.SetReadDeadline, t) }

// SetWriteDeadline implements net.Conn.
func (c *TCPConn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(c.file.SetWriteDeadline, t)
}

func (c *TCPConn) setDeadline(set func(time.Time) error, t time.Time) error {
	if c.raw.ended.Load() || set(t) != nil {
		return c.opError("set", net.ErrClosed)
	}
	return nil
}

func (c *TCPConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// isTCP reports whether x is a TCP socket of this host.
func isTCP(x any) bool {
	switch x.(type) {
	case *TCPConn, *net.TCPConn:
		return true
	}
	return false
}

// tcpAddr converts an address whose zone is a number. Zones of package net have names.
func tcpAddr(a netip.AddrPort) *net.TCPAddr {
	t := net.TCPAddrFromAddrPort(a)
	if index, err := strconv.Atoi(t.Zone); err == nil {
		if i, err := net.InterfaceByIndex(index); err == nil {
			t.Zone = i.Name
		}
	}
	return t
}
