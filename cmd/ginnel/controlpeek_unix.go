//go:build unix

package main

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// peekByte waits for the first byte of a connection and leaves it there: the relay wants the socket
// itself.
func peekByte(conn net.Conn) (byte, net.Conn, error) {
	sys, ok := conn.(syscall.Conn)
	if !ok {
		return 0, nil, errors.New("not a socket")
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	var first [1]byte
	var n int
	var peekErr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, _, peekErr = syscall.Recvfrom(int(fd), first[:], syscall.MSG_PEEK)
			if peekErr != syscall.EINTR {
				return peekErr != syscall.EAGAIN
			}
		}
	})
	if err := errors.Join(err, peekErr); err != nil {
		return 0, nil, err
	}
	if n == 0 {
		return 0, nil, io.EOF
	}
	return first[0], conn, nil
}
