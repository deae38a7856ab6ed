package proxy

import (
	"errors"
	"io"
	"sync"
)

const (
	// bufferSize holds the largest UDP datagram, and is where larger reads from a TCP socket stop
	// paying.
	bufferSize = 64 << 10

	// idleBufferSize is held by a connection that can only be waited for in a Read.
	idleBufferSize = 2 << 10
)

// buffers are lent out while bytes are moved. While they are waited for, only those conns hold one
// that cannot tell before a Read that there is something: see readiness and copyBuffered.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// carry moves bytes from src to dst until src ends, and returns nil then, or until either fails. It
// holds back src when dst is slow: there is never more than one buffer between them.
//
// A conn of the network behind Dial knows best how to move bytes in and out of itself, so its
// ReadFrom and WriteTo come first, and see the client's socket bare. Sockets of the host have such
// methods too, but those take a buffer or a pipe for the whole life of the connection; fromSocket
// does not.
func carry(dst io.Writer, src io.Reader, m *meter) error {
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
		return fromSocket(dst, src, m)
	}
	return copyBuffered(dst, src, m)
}

// copyBuffered waits with a small buffer and takes a large one for as long as reads come back full.
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
