package egress

import (
	"net"
	"sync"
)

// closeWriter is the half-close of *net.TCPConn and *tls.Conn, which net.Conn lacks.
type closeWriter interface{ CloseWrite() error }

// withFirst returns conn with bytes that were read from it already put back in front. Without such
// bytes it returns conn itself, so that the kernel can still splice it.
func withFirst(conn net.Conn, first []byte) net.Conn {
	if len(first) == 0 {
		return conn
	}
	c := &firstConn{Conn: conn, first: first}
	if cw, ok := conn.(closeWriter); ok {
		return struct {
			*firstConn
			closeWriter
		}{c, cw}
	}
	return c
}

// firstConn returns the bytes of first before it reads from Conn.
type firstConn struct {
	net.Conn
	mu    sync.Mutex
	first []byte
}

func (c *firstConn) Read(b []byte) (int, error) {
	if n := c.take(b); n > 0 {
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *firstConn) take(b []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := copy(b, c.first)
	c.first = c.first[n:]
	return n
}

func (c *firstConn) Close() error {
	c.mu.Lock()
	c.first = nil // reading a closed connection fails
	c.mu.Unlock()
	return c.Conn.Close()
}
