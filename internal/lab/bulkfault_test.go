//go:build lab

package lab

import (
	"net"
	"testing"
)

// fault is a change to one byte of the data on a connection.
type fault int

const (
	noFault fault = iota
	changed
	dropped
	doubled
)

// apply returns b, which begins at offset pos of a stream, with the fault at offset at of the
// stream.
func (f fault) apply(b []byte, pos, at int) []byte {
	i := at - pos
	if f == noFault || i < 0 || i >= len(b) {
		return b
	}
	out := append([]byte(nil), b...)
	switch f {
	case changed:
		out[i] ^= 1
	case dropped:
		out = append(out[:i], out[i+1:]...)
	case doubled:
		out = append(out[:i+1], out[i:]...)
	}
	return out
}

// faultyConn is a server's connection with a fault in at most one direction.
type faultyConn struct {
	net.Conn
	up, down fault
	sent     int
	rest     []byte
	received int
}

// faultAt is the offset of the fault in its stream.
const faultAt = 100000

func (c *faultyConn) Write(b []byte) (int, error) {
	pos := c.sent
	c.sent += len(b)
	if _, err := c.Conn.Write(c.down.apply(b, pos, faultAt)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *faultyConn) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		buf := make([]byte, 4096)
		n, err := c.Conn.Read(buf)
		if err != nil {
			return 0, err
		}
		c.rest = c.up.apply(buf[:n], c.received, faultAt)
		c.received += n
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// The tests of the lab rely on this: a bulk transfer fails if a single byte is changed, lost or
// doubled in either direction, and only then.
func TestBulkNotices(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ up, down fault }{{}, {up: changed}, {up: dropped}, {up: doubled}, {down: changed},
		{down: dropped}, {down: doubled}} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			if conn, err := ln.Accept(); err == nil {
				serveBulk(&faultyConn{Conn: conn, up: c.up, down: c.down})
			}
		}()
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		b := startBulk(t, conn, 100<<20)
		eventually(t, "the transfer is past the fault", dialTimeout, func() bool {
			return len(b.done) > 0 || b.down.Load() > 2*faultAt && b.up.Load() > 2*faultAt
		})
		close(b.stopc)
		err = <-b.done
		if (err != nil) != (c.up != noFault || c.down != noFault) {
			t.Errorf("fault %d up and %d down: %v", c.up, c.down, err)
		}
	}
}
