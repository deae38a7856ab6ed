package sys

import (
	"net"
	"syscall"
)

// RawConn lends the descriptor of a socket and waits in the runtime's poller until it is ready.
type RawConn = syscall.RawConn

// ErrWouldBlock is the error of a call that would have to wait.
const ErrWouldBlock = syscall.EAGAIN

// Events of Poll, with the values of poll(2).
const (
	PollIn    = pollIn    // there is something to read, or the stream has ended
	PollOut   = pollOut   // there is room to write
	PollErr   = pollErr   // the socket has an error; always reported
	PollHup   = pollHup   // both streams have ended; always reported
	PollRdHup = pollRdHup // the peer has ended its stream; 0 where the system cannot tell
)

// IsStream reports whether x is a stream socket of this host, TCP or Unix, that Stream gives access
// to. It is false for every x on systems other than Linux.
func IsStream(x any) bool {
	if _, unix := x.(*net.UnixConn); unix {
		return rawStreams
	}
	return IsTCP(x)
}

// IsTCP is IsStream for TCP sockets alone, of this package or of package net.
func IsTCP(x any) bool { return rawStreams && isTCP(x) }

// Stream returns access to the descriptor of x if IsStream holds. Read, Write, Waiting, Poll and
// Splice take that descriptor.
func Stream(x any) (c RawConn, ok bool) {
	if !IsStream(x) {
		return nil, false
	}
	c, err := x.(syscall.Conn).SyscallConn()
	return c, err == nil
}

// TCPStream is Stream for TCP sockets alone, whose descriptors Splice takes.
func TCPStream(x any) (c RawConn, ok bool) {
	if !IsTCP(x) {
		return nil, false
	}
	c, err := x.(syscall.Conn).SyscallConn()
	return c, err == nil
}

// PacketSocket returns access to the descriptor of a datagram socket, for Poll. It reports false
// for conns that are no sockets, and on systems other than Linux.
func PacketSocket(pc net.PacketConn) (_ RawConn, ok bool) {
	s, ok := pc.(syscall.Conn)
	if !ok || !rawStreams {
		return nil, false
	}
	raw, err := s.SyscallConn()
	return raw, err == nil
}

// Nonblocking returns access to the descriptor of a TCP connection, for Read, Write and Poll. It
// reports false where the system has no calls for that.
func Nonblocking(c *net.TCPConn) (_ RawConn, ok bool) {
	if !hasNonblocking {
		return nil, false
	}
	raw, err := c.SyscallConn()
	return raw, err == nil
}

// Read reads what has arrived, up to len(b) bytes, without waiting. At the end of the stream it
// returns 0 and no error, and ErrWouldBlock if nothing has arrived. A call that a signal interrupts
// is repeated. Errors are of type syscall.Errno.
func Read(fd uintptr, b []byte) (int, error) {
	n, err := read(fd, b)
	if err == nil {
		afterRead(fd)
	}
	return n, err
}

// Write writes as much of b as the socket has room for, without waiting. Errors are as of Read. A
// peer that has closed the connection does not cause SIGPIPE on Linux.
func Write(fd uintptr, b []byte) (int, error) {
	beforeWrite()
	return write(fd, b)
}

// Poll returns which of the events hold now, PollErr and PollHup included. It returns 0 if the call
// fails.
func Poll(fd uintptr, events int16) int16 { return poll(fd, events) }

// Waiting returns how many bytes have arrived and were not read yet. Only for descriptors of
// Stream.
func Waiting(fd uintptr) (int, error) { return waiting(fd) }
