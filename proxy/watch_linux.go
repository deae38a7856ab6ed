package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"ginnel/internal/sys"
)

// awaitHangup blocks until the client hangs up, or the read deadline passes. poll(2) sees the end
// of a stream even if there are unread bytes before it.
func (c *conn) awaitHangup() hangup {
	if !isSocket(c.Conn) {
		return c.awaitHangupByRead()
	}
	how := stayed
	awaitEvent(c.Conn, func(fd uintptr) bool {
		switch events := sys.Poll(fd, unix.POLLRDHUP); {
		case events&(unix.POLLERR|unix.POLLHUP) != 0:
			how = left
		case events&unix.POLLRDHUP == 0:
			return false
		default:
			how = finished
		}
		return true
	})
	return how
}

// waitReset blocks until a connection whose stream has ended is reset, or is closed by us. In the
// latter case, and where x is no socket, it returns an error. A unix socket shows the peer's close
// too; TCP shows that only by the reset that answers a keep-alive.
func waitReset(x any) error {
	broken := int16(unix.POLLERR)
	if _, ok := x.(*net.UnixConn); ok {
		broken |= unix.POLLHUP
	}
	return awaitEvent(x, func(fd uintptr) bool { return sys.Poll(fd, 0)&broken != 0 })
}

// hasInput reports whether there is something to be read from socket x.
func hasInput(x any) (has bool) {
	if !isSocket(x) {
		return false
	}
	raw, err := x.(syscall.Conn).SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) { has = sys.Poll(fd, unix.POLLIN)&unix.POLLIN != 0 })
	return has
}

// awaitEvent calls seen at once and at each change of the state of socket x, until it returns true.
func awaitEvent(x any, seen func(fd uintptr) bool) error {
	if !isSocket(x) {
		return syscall.ENOTSUP
	}
	raw, err := x.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(seen)
}
