//go:build !unix

package main

import (
	"bufio"
	"net"
)

// peekByte waits for the first byte of a connection, and returns one that still has it.
func peekByte(conn net.Conn) (byte, net.Conn, error) {
	r := bufio.NewReaderSize(conn, 16)
	first, err := r.Peek(1)
	if err != nil {
		return 0, nil, err
	}
	return first[0], &peekedConn{conn, r}, nil
}

// peekedConn gives back first what was read from it already.
type peekedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *peekedConn) Read(b []byte) (int, error) { return c.r.Read(b) }
