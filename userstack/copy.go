package userstack

import (
	"errors"
	"io"
	"sync"

	"gvisor.dev/gvisor/pkg/waiter"
)

// bulkSize is how much ReadFrom and WriteTo move at a time through a buffer of ours.
const bulkSize = 64 << 10

var bulkPool = sync.Pool{New: func() any { return new([bulkSize]byte) }}

// ReadFrom implements io.ReaderFrom. A socket of the operating system as r is read straight into
// gVisor's memory, and no buffer is held while r has nothing to say.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if n, err, ok := c.readFromSocket(r); ok {
		return n, err
	}
	return c.copyFrom(r)
}

// copyFrom is ReadFrom for any reader.
func (c *Conn) copyFrom(r io.Reader) (done int64, err error) {
	buf := bulkPool.Get().(*[bulkSize]byte)
	defer bulkPool.Put(buf)
	for {
		n, rerr := r.Read(buf[:])
		if n > 0 {
			w, err := c.write(buf[:n])
			done += int64(w)
			if err != nil {
				return done, opError(opWrite, "tcp", c.local, c.remote, err)
			}
		}
		if rerr == io.EOF {
			return done, nil
		}
		if rerr != nil {
			return done, rerr
		}
	}
}

// WriteTo implements io.WriterTo. To a socket of the operating system as w the bytes go straight
// from gVisor's memory. It returns nil at the end of the stream.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if n, err, ok := c.writeToSocket(w); ok {
		return n, err
	}
	return c.copyTo(w)
}

// copyTo is WriteTo for any writer. While it waits for data it holds no buffer.
func (c *Conn) copyTo(w io.Writer) (done int64, err error) {
	for {
		if err := c.waitReadable(); err != nil {
			return done, opError(opRead, "tcp", c.local, c.remote, err)
		}
		n, err := c.copyOnce(w)
		done += n
		if err == errEnd {
			return done, nil
		}
		if err != nil {
			return done, err
		}
	}
}

// errEnd is the end of the stream, told apart from an io.EOF that a writer might return.
var errEnd = errors.New("end of stream")

func (c *Conn) copyOnce(w io.Writer) (int64, error) {
	buf := bulkPool.Get().(*[bulkSize]byte)
	defer bulkPool.Put(buf)
	n, err := c.read(buf[:])
	if err == io.EOF {
		return 0, errEnd
	}
	if err != nil {
		return 0, opError(opRead, "tcp", c.local, c.remote, err)
	}
	m, err := w.Write(buf[:n])
	if err == nil && m < n {
		err = io.ErrShortWrite
	}
	return int64(m), err
}

// waitReadable blocks until a read would return at once.
func (c *Conn) waitReadable() error {
	for {
		if err := c.check(&c.readDeadline); err != nil {
			return err
		}
		if c.ep.Readiness(waiter.ReadableEvents|waiter.EventErr|waiter.EventHUp) != 0 {
			return nil
		}
		if err := c.wait(c.readablec, &c.readDeadline); err != nil {
			return err
		}
	}
}
