package proxy

import (
	"errors"
	"io"
	"net"
	"os"

	"ginnel/internal/sys"
)

// minSplice is how many bytes must be unread in a socket for splice(2) through a pipe to cost less
// than a read and a write.
const minSplice = 16 << 10

// isSocket reports whether c is a stream socket of this host, which copyFromSocket can read.
func isSocket(c io.Closer) bool { return sys.IsStream(c) }

// copyFromSocket is copyStream for a src that is a socket of this host. While it waits it holds no
// buffer. If a read fills its buffer and dst is a TCP socket too, the rest of what has arrived is
// moved by splice(2). The pipe is held for that burst only, because a pipe costs two descriptors.
func copyFromSocket(dst, src io.ReadWriteCloser, m *meter) error {
	raw, ok := sys.Stream(src)
	if !ok {
		return copyBuffered(dst, src, m)
	}
	r := socketReader{raw: raw}
	r.readFn = r.tryRead
	to, canSplice := sys.TCPStream(dst)
	for {
		n, err := r.copyTo(dst)
		m.add(int64(n))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !canSplice || r.unread < minSplice {
			continue
		}
		spliced, err := sys.Splice(to, raw, r.unread)
		m.add(spliced)
		if err != nil {
			return err
		}
	}
}

// socketReader reads from a socket into a buffer that it holds only from a successful read until
// the bytes are written.
type socketReader struct {
	raw    sys.RawConn
	readFn func(fd uintptr) (done bool) // tryRead as a value, made once to save an allocation per read

	buf    *[bufferSize]byte // nil between reads
	n      int
	err    error
	unread int // bytes left in the socket after a read that filled buf
}

// copyTo waits for bytes, reads once, and writes what it has read to dst. At the end of the stream
// it returns io.EOF.
func (r *socketReader) copyTo(dst io.Writer) (int, error) {
	if err := r.raw.Read(r.readFn); err != nil {
		return 0, err
	}
	defer r.release()
	if r.err != nil {
		return 0, os.NewSyscallError("read", r.err)
	}
	if r.n == 0 {
		return 0, io.EOF
	}
	return dst.Write(r.buf[:r.n])
}

// tryRead reads without blocking. It returns false if there is nothing to read yet.
func (r *socketReader) tryRead(fd uintptr) bool {
	r.buf = buffers.Get().(*[bufferSize]byte)
	r.unread = 0
	r.n, r.err = sys.Read(fd, r.buf[:])
	if r.err == sys.ErrWouldBlock {
		r.release()
		return false
	}
	if r.n == bufferSize {
		r.unread, _ = sys.Waiting(fd)
	}
	return true
}

func (r *socketReader) release() {
	buffers.Put(r.buf)
	r.buf = nil
}

// readiness waits until a socket of this host is readable, so that its reader need not hold a
// buffer while it waits. The wait of the zero readiness returns at once.
type readiness struct{ raw sys.RawConn }

func readinessOf(pc net.PacketConn) readiness {
	raw, ok := sys.PacketSocket(pc)
	if !ok {
		return readiness{}
	}
	return readiness{raw}
}

// wait blocks until the socket is readable.
func (r readiness) wait() error {
	if r.raw == nil {
		return nil
	}
	return r.raw.Read(readable)
}

func readable(fd uintptr) bool { return sys.Poll(fd, sys.PollIn) != 0 }
