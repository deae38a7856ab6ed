package hostsock

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ginnel/internal/nonblock"
)

// What package net asks for, too: a peer that is gone without a word is noticed after two and a
// half minutes.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9
)

// listener is a net.Listener for TCP.
type listener struct {
	file *os.File
	raw  rawConn
	addr net.Addr

	first   sync.Once
	forgets bool // connections are not set to what the listener is, as in gVisor's sandbox; once first is done
}

// Listen listens on addr as net.Listen does for "tcp", but for MPTCP, whose sockets do not hand on
// all that they are set to.
func Listen(addr string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	ln, err := c.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer ln.Close() // the socket lives on under another descriptor
	l := &listener{addr: ln.Addr()}
	if l.file, err = ln.(*net.TCPListener).File(); err != nil {
		return nil, l.opError("listen", err)
	}
	if err = l.raw.open(l.file); err == nil {
		err = l.raw.Control(setOptions)
	}
	if err != nil {
		l.file.Close()
		return nil, l.opError("listen", err)
	}
	return l, nil
}

// setOptions sets what package net sets for each connection, and does without what cannot be had as
// that does. The connections of a listener have what it has.
func setOptions(fd uintptr) {
	for _, o := range [...]struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAliveIdle.Seconds())},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveInterval.Seconds())},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount},
	} {
		nonblock.SetOption(fd, o.level, o.name, o.value)
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		var fd int
		var from netip.AddrPort
		var failed error
		if err := l.raw.Read(func(lfd uintptr) bool {
			fd, from, failed = nonblock.Accept(lfd)
			return failed != unix.EAGAIN
		}); err != nil {
			return nil, l.opError("accept", err)
		}
		if failed == syscall.ECONNABORTED || leftovers.makeRoom(failed) {
			continue // the client had gone before it was accepted, or there is room for it now
		}
		if failed != nil {
			return nil, l.opError("accept", os.NewSyscallError("accept4", failed))
		}
		l.first.Do(func() {
			noDelay, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY)
			l.forgets = noDelay == 0 || err != nil
		})
		if l.forgets {
			setOptions(uintptr(fd))
		}
		c, err := newConn(fd, from)
		if err != nil {
			return nil, l.opError("accept", err)
		}
		return c, nil
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	if l.raw.ended.Swap(true) {
		return l.opError("close", net.ErrClosed)
	}
	l.file.Close()
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: l.addr, Err: err}
}
