package control

import (
	"encoding/binary"
	"errors"
	"io"
)

// A server may send a payload before HTTP/2 starts, the early payload (control specification,
// section 2.6). This client needs nothing in it. It is skipped while the first bytes of HTTP/2 are
// read, so that opening a channel need not wait for it.

const (
	earlyMagic  = "\xff\xff\xffTS"
	earlyHeader = len(earlyMagic) + 4
	maxEarly    = 10 << 20
)

var errEarlySize = errors.New("channel begins with a payload of impossible size")

// earlyConn is a client's channel whose Read skips the early payload. Only one goroutine may read.
type earlyConn struct {
	*Conn
	head [earlyHeader]byte
	got  int    // bytes of head that were read
	skip int    // bytes of the payload still to be skipped
	rest []byte // bytes of head that are not an early header, still to be returned
	done bool   // head has been parsed
}

// Read implements net.Conn.
func (c *earlyConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for !c.done {
		n, err := c.Conn.Read(c.head[c.got:])
		c.got += n
		if err == io.EOF && c.got > 0 {
			c.rest, c.done = c.head[:c.got], true // HTTP/2 will report that the stream is too short
			break
		}
		if err != nil {
			return 0, err
		}
		if err := c.parse(); err != nil {
			return 0, err
		}
	}
	for c.skip > 0 {
		n, err := c.Conn.Read(p[:min(len(p), c.skip)])
		c.skip -= n
		if err != nil {
			return 0, noEOF(err)
		}
	}
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// parse parses head if it is complete.
func (c *earlyConn) parse() error {
	if c.got < len(c.head) {
		return nil
	}
	if string(c.head[:len(earlyMagic)]) != earlyMagic {
		c.rest, c.done = c.head[:], true
		return nil
	}
	n := binary.BigEndian.Uint32(c.head[len(earlyMagic):])
	if n > maxEarly {
		return errEarlySize
	}
	c.skip, c.done = int(n), true
	return nil
}
