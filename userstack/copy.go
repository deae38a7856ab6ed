package userstack

import (
	"errors"
	"io"
	"sync"

	"gvisor.dev/gvisor/pkg/waiter"
)

// bulkSize is the size of the buffers that ReadFrom and WriteTo copy through, in bytes.
const bulkSize = 64 << 10

var bulkPool = sync.Pool{New: func() any { return new([bulkSize]byte) }}

// ReadFrom implements io.ReaderFrom. If r is a host socket, its data are read directly into
// gVisor's memory, and no buffer is held while r has nothing to read.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if n, err, ok := c.readFromSocket(r); ok {
		return n, err
	}
	return c.copyFrom(r)
}

// copyFrom is ReadFrom for readers other than host sockets.
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

// WriteTo implements io.WriterTo. If w is a host socket, the data are written directly from
// gVisor's memory. It returns nil at the end of the stream.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if n, err, ok := c.writeToSocket(w); ok {
		return n, err
	}
	return c.copyTo(w)
}

// copyTo is WriteTo for writers other than host sockets. It holds no buffer while it waits for
// data.
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

// errEnd is the end of the stream. It is not io.EOF, because w may return that itself.
var errEnd = errors.New("end of stream")

// copyOnce copies what is readable now, up to bulkSize bytes, to w.
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

// waitReadable blocks until a read would not block.
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
