package proxy

import (
	"errors"
	"io"
	"sync"
)

const (
	// bufferSize is the size from which larger reads from a TCP socket gain no more. The largest UDP
	// datagram fits, too.
	bufferSize = 64 << 10

	// idleBufferSize is the size of the buffer with which a conn waits that has to wait in Read.
	idleBufferSize = 2 << 10
)

// buffers are held while bytes are copied. While a connection waits for bytes it holds none, except
// a small one if its conn cannot tell before a Read whether there are bytes (copyBuffered).
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// copyStream copies bytes from src to dst until src ends, and returns nil then, or until either
// fails. A slow dst slows down src, because at most one buffer is between them.
//
// The ReadFrom or WriteTo of a conn of the network behind Dial is preferred, because it is made for
// that conn; it is given the client's socket itself. The ReadFrom and WriteTo of the host's sockets
// are not used, because they hold a buffer or a pipe for the whole life of the connection.
// copyFromSocket does not.
func copyStream(dst, src io.ReadWriteCloser, m *meter) error {
	if to, ok := dst.(io.ReaderFrom); ok && !isSocket(dst) {
		n, err := to.ReadFrom(src)
		m.add(n)
		return err
	}
	if from, ok := src.(io.WriterTo); ok && !isSocket(src) {
		n, err := from.WriteTo(dst)
		m.add(n)
		return err
	}
	if isSocket(src) {
		return copyFromSocket(dst, src, m)
	}
	return copyBuffered(dst, src, m)
}

// copyBuffered waits with a small buffer. It takes a large one as soon as a read fills the small
// one, and returns it after a short read.
func copyBuffered(dst io.Writer, src io.Reader, m *meter) error {
	small := make([]byte, idleBufferSize)
	buf := small
	var large *[bufferSize]byte
	defer func() {
		if large != nil {
			buffers.Put(large)
		}
	}()
	for {
		n, err := src.Read(buf)
		if n > 0 {
			written, err := dst.Write(buf[:n])
			m.add(int64(written))
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case n == len(buf) && large == nil:
			large = buffers.Get().(*[bufferSize]byte)
			buf = large[:]
		case n < idleBufferSize && large != nil:
			buffers.Put(large)
			large, buf = nil, small
		}
	}
}
