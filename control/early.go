package control

import (
	"encoding/binary"
	"errors"
	"io"
)

// A server may begin with a payload of its own before HTTP/2 does (control specification, section
// 2.6). Nothing in it concerns us: it is skipped while the first bytes are read, and nobody waits
// for it.

const (
	earlyMagic  = "\xff\xff\xffTS"
	earlyHeader = len(earlyMagic) + 4
	maxEarly    = 10 << 20
)

var errEarlySize = errors.New("channel begins with a payload of impossible size")

// earlyConn is a client's channel without the early payload. It is not safe for several readers at
// once.
type earlyConn struct {
	*Conn
	head [earlyHeader]byte
	got  int    // bytes of head that were read
	skip int    // bytes of payload that are still to come
	rest []byte // of head, if it was no early header
	done bool   // head is complete
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
			c.rest, c.done = c.head[:c.got], true // too short for either: whoever reads finds out
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

// parse looks at head once it is complete.
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
