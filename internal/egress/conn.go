package egress

import (
	"net"
	"sync"
)

// closeWriter is what *net.TCPConn and *tls.Conn have besides net.Conn.
type closeWriter interface{ CloseWrite() error }

// withFirst returns a conn whose first bytes were read already. If there are none, it is conn
// itself, so that the system can still splice it.
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

// firstConn gives back first what was read from Conn before.
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
	c.first = nil // a closed conn has nothing to read
	c.mu.Unlock()
	return c.Conn.Close()
}
