package proxy

import (
	"errors"
	"io"
	"net"

	"ginnel/internal/sys"
)

// awaitHangup blocks until the client hangs up or the read deadline passes. poll(2) reports the end
// of the stream (POLLRDHUP) even while unread bytes precede it.
func (c *conn) awaitHangup() hangup {
	if !isSocket(c.Conn) {
		return c.awaitHangupByRead()
	}
	how := hangupNone
	awaitEvent(c.Conn, func(fd uintptr) bool {
		switch events := sys.Poll(fd, sys.PollRdHup); {
		case events&(sys.PollErr|sys.PollHup) != 0:
			how = hangupBroken
		case events&sys.PollRdHup == 0:
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
	broken := int16(sys.PollErr)
	if _, ok := c.(*net.UnixConn); ok {
		broken |= sys.PollHup
	}
	return awaitEvent(c, func(fd uintptr) bool { return sys.Poll(fd, 0)&broken != 0 })
}

// hasInput reports whether socket c has unread input. It returns false if that cannot be known.
func hasInput(c net.Conn) (has bool) {
	raw, ok := sys.Stream(c)
	if !ok {
		return false
	}
	raw.Control(func(fd uintptr) { has = sys.Poll(fd, sys.PollIn)&sys.PollIn != 0 })
	return has
}

// awaitEvent calls seen at once and after every event that the runtime's poller reports for socket
// c, until seen returns true.
func awaitEvent(c io.Closer, seen func(fd uintptr) bool) error {
	raw, ok := sys.Stream(c)
	if !ok {
		return errors.ErrUnsupported
	}
	return raw.Read(seen)
}
