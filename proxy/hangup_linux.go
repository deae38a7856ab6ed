package proxy

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"ginnel/internal/nonblock"
)

// awaitHangup blocks until the client hangs up or the read deadline passes. poll(2) reports the end
// of the stream (POLLRDHUP) even while unread bytes precede it.
func (c *conn) awaitHangup() hangup {
	if !isSocket(c.Conn) {
		return c.awaitHangupByRead()
	}
	how := hangupNone
	awaitEvent(c.Conn, func(fd uintptr) bool {
		switch events := nonblock.Poll(fd, unix.POLLRDHUP); {
		case events&(unix.POLLERR|unix.POLLHUP) != 0:
			how = hangupBroken
		case events&unix.POLLRDHUP == 0:
			return false
		default:
			how = hangupEOF
		}
		return true
	})
	return how
}

// waitReset blocks until the peer resets a connection whose stream has ended, and returns nil then.
// It returns an error if we close the connection, or if c is no socket of this host. A unix socket
// also reports the peer's close (POLLHUP). TCP does not: there the reset comes in answer to the
// next keep-alive probe.
func waitReset(c io.Closer) error {
	broken := int16(unix.POLLERR)
	if _, ok := c.(*net.UnixConn); ok {
		broken |= unix.POLLHUP
	}
	return awaitEvent(c, func(fd uintptr) bool { return nonblock.Poll(fd, 0)&broken != 0 })
}

// hasInput reports whether socket c has unread input. It returns false if that cannot be known.
func hasInput(c net.Conn) (has bool) {
	if !isSocket(c) {
		return false
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) { has = nonblock.Poll(fd, unix.POLLIN)&unix.POLLIN != 0 })
	return has
}

// awaitEvent calls seen at once and after every event that the runtime's poller reports for socket
// c, until seen returns true.
func awaitEvent(c io.Closer, seen func(fd uintptr) bool) error {
	if !isSocket(c) {
		return syscall.ENOTSUP
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(seen)
}
