//go:build linux && !ginnel_stdnet

package sys

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Keep-alive as package net sets it: a peer that vanishes is noticed after two and a half minutes.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9
)

// tcpListener is a net.Listener for TCP.
type tcpListener struct {
	file *os.File
	raw  rawConn
	addr net.Addr

	first   sync.Once
	forgets bool // connections are not set to what the listener is, as in gVisor's sandbox; once first is done
}

// listenTCP turns MPTCP off because sockets that an MPTCP listener accepts do not inherit all
// options.
func listenTCP(addr string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	ln, err := c.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer ln.Close() // the socket lives on under another descriptor
	l := &tcpListener{addr: ln.Addr()}
	if l.file, err = ln.(*net.TCPListener).File(); err != nil {
		return nil, l.opError("listen", err)
	}
	if err = l.raw.open(l.file); err == nil {
		err = l.raw.Control(setTCPOptions)
	}
	if err != nil {
		l.file.Close()
		return nil, l.opError("listen", err)
	}
	return l, nil
}

// setTCPOptions sets TCP_NODELAY and keep-alive as package net does, and ignores errors as net
// does. Accepted sockets inherit them from the listener (Linux).
func setTCPOptions(fd uintptr) {
	for _, o := range [...]struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAliveIdle.Seconds())},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveInterval.Seconds())},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount},
	} {
		setOption(fd, o.level, o.name, o.value)
	}
}

// Accept implements net.Listener.
func (l *tcpListener) Accept() (net.Conn, error) {
	for {
		var fd int
		var from netip.AddrPort
		var failed error
		if err := l.raw.Read(func(lfd uintptr) bool {
			fd, from, failed = accept(lfd)
			return failed != unix.EAGAIN
		}); err != nil {
			return nil, l.opError("accept", err)
		}
		if failed == syscall.ECONNABORTED || deferred.makeRoom(failed) {
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
			setTCPOptions(uintptr(fd))
		}
		c, err := newConn(fd, from)
		if err != nil {
			return nil, l.opError("accept", err)
		}
		return c, nil
	}
}

// Close implements net.Listener.
func (l *tcpListener) Close() error {
	if l.raw.ended.Swap(true) {
		return l.opError("close", net.ErrClosed)
	}
	l.file.Close()
	return nil
}

// Addr implements net.Listener.
func (l *tcpListener) Addr() net.Addr { return l.addr }

func (l *tcpListener) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: l.addr, Err: err}
}
