package proxy

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"ginnel/internal/sys"
)

// spliceFrom is how many bytes must wait in a socket for the trip through a pipe to cost less than
// two copies.
const spliceFrom = 16 << 10

// isSocket reports whether x is a stream socket of this host, which fromSocket can read.
func isSocket(x any) bool { return sys.IsStream(x) }

// fromSocket is carry for a src that isSocket. While nothing comes it holds no buffer. When more
// comes than a buffer holds and dst is a TCP socket too, the kernel moves what is there by
// splice(2): in bursts, so that no connection keeps a pipe, two descriptors, while it has nothing
// to move.
func fromSocket(dst io.Writer, src io.Reader, m *meter) error {
	raw, err := src.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	r := socketReader{raw: raw}
	r.attempt = r.try
	to := tcpSocket(dst)
	for {
		n, err := r.copyTo(dst)
		m.add(int64(n))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if to == nil || r.waiting < spliceFrom {
			continue
		}
		spliced, err := splice(to, raw, r.waiting)
		m.add(spliced)
		if err != nil {
			return err
		}
	}
}

// socketReader reads from a socket into a buffer that it takes only when there is something to
// read.
type socketReader struct {
	raw     syscall.RawConn
	attempt func(fd uintptr) (done bool)

	buf     *[bufferSize]byte // nil between reads
	n       int
	err     error
	waiting int // bytes left in the socket after a read that filled buf
}

// copyTo waits for bytes and writes them to dst. At the end of the stream it returns io.EOF.
func (r *socketReader) copyTo(dst io.Writer) (int, error) {
	if err := r.raw.Read(r.attempt); err != nil {
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

// try reads without blocking. It reports false if there is nothing to read yet.
func (r *socketReader) try(fd uintptr) bool {
	r.buf = buffers.Get().(*[bufferSize]byte)
	r.waiting = 0
	r.n, r.err = sys.Read(fd, r.buf[:])
	if r.err == unix.EAGAIN {
		r.release()
		return false
	}
	if r.n == bufferSize {
		r.waiting, _ = sys.Waiting(fd)
	}
	return true
}

func (r *socketReader) release() {
	buffers.Put(r.buf)
	r.buf = nil
}

// readiness tells when a socket of this host can be read, so that the buffer for it need not be
// held before. The zero readiness says always.
type readiness struct{ raw syscall.RawConn }

func readinessOf(x any) readiness {
	s, ok := x.(syscall.Conn)
	if !ok {
		return readiness{}
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return readiness{}
	}
	return readiness{raw}
}

// wait blocks until there is something to read.
func (r readiness) wait() error {
	if r.raw == nil {
		return nil
	}
	return r.raw.Read(readable)
}

func readable(fd uintptr) bool { return sys.Poll(fd, unix.POLLIN) != 0 }
