package userstack

import (
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// rawConn returns the descriptor access of a TCP or Unix socket, whose reads and writes do not block.
func rawConn(v any) (syscall.RawConn, bool) {
	switch v.(type) {
	case *net.TCPConn, *net.UnixConn:
		rc, err := v.(syscall.Conn).SyscallConn()
		return rc, err == nil
	}
	return nil, false
}

// socketSource is a socket as the payload of one gVisor write: it knows how many bytes wait.
type socketSource struct {
	fd   int
	left int
	err  error
}

// Len implements tcpip.Payloader.
func (s *socketSource) Len() int { return s.left }

// Read implements tcpip.Payloader.
func (s *socketSource) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(s.fd, b[:min(len(b), s.left)]) })
	switch {
	case err != nil:
		s.err = err
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	s.left -= n
	return n, nil
}

// fill learns how many bytes wait. It reports io.EOF at the end and EAGAIN if there are none now.
func (s *socketSource) fill(limit int) error {
	for {
		n, err := unix.IoctlGetInt(s.fd, unix.SIOCINQ)
		if err != nil {
			return err
		}
		if n > 0 {
			s.left = min(n, limit)
			return nil
		}
		// Nothing, or the end, or an error: a peek tells which.
		var b [1]byte
		n, err = ignoringEINTR(func() (int, error) {
			n, _, err := unix.Recvfrom(s.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			return n, err
		})
		if err != nil {
			return err
		}
		if n == 0 {
			return io.EOF
		}
	}
}

// readFromSocket is ReadFrom for sockets; it reports false for other readers.
func (c *Conn) readFromSocket(r io.Reader) (done int64, err error, ok bool) {
	rc, ok := rawConn(r)
	if !ok {
		return 0, nil, false
	}
	var src socketSource
	for {
		if err := c.check(&c.writeDeadline); err != nil {
			return done, opError(opWrite, "tcp", c.local, c.remote, err), true
		}
		var terr tcpip.Error
		var n int64
		cerr := rc.Read(func(fd uintptr) bool {
			src = socketSource{fd: int(fd)}
			if src.err = src.fill(c.pieceSize()); src.err != nil {
				return src.err != unix.EAGAIN
			}
			n, terr = c.ep.Write(&src, tcpip.WriteOptions{Atomic: true})
			return true
		})
		done += n
		switch {
		case cerr != nil:
			return done, cerr, true
		case src.err == io.EOF:
			return done, nil, true
		case src.err != nil && src.err != unix.EAGAIN:
			return done, &net.OpError{Op: opRead, Net: "tcp", Err: src.err}, true
		case terr == nil:
		case wouldBlock(terr):
			if err := c.wait(c.outc, &c.writeDeadline); err != nil {
				return done, opError(opWrite, "tcp", c.local, c.remote, err), true
			}
		default:
			return done, opError(opWrite, "tcp", c.local, c.remote, c.writeError(terr)), true
		}
	}
}

// pieceSize is what ReadFrom writes at a time: as much as leaves the stack in one batch, in whole segments.
func (c *Conn) pieceSize() int { return c.mss * max(1, (bulkSize-1024)/c.mss) }

// socketSink is a socket as the destination of one gVisor read. Small pieces are gathered, so that they cost one system
// call; large ones go out as they are.
type socketSink struct {
	fd      int
	gather  *[bulkSize]byte // from bulkPool while it holds bytes[:n]
	off, n  int             // gather[off:n] is not yet written
	blocked bool            // the socket takes no more now
	err     error
}

const gatherBelow = 8 << 10

var errBlocked = errors.New("socket takes no more")

// Write implements io.Writer for tcpip.Endpoint.Read. A short count leaves the rest in gVisor.
func (s *socketSink) Write(b []byte) (int, error) {
	if len(b) < gatherBelow {
		if s.gather == nil {
			s.gather = bulkPool.Get().(*[bulkSize]byte)
		}
		if len(b) <= len(s.gather)-s.n {
			s.n += copy(s.gather[s.n:], b)
			return len(b), nil
		}
	}
	if !s.flush() {
		return 0, errBlocked
	}
	if len(b) < gatherBelow {
		return s.Write(b)
	}
	return s.push(b)
}

// push writes b until all is written or the socket blocks.
func (s *socketSink) push(b []byte) (done int, err error) {
	for done < len(b) {
		n, err := ignoringEINTR(func() (int, error) {
			return unix.SendmsgN(s.fd, b[done:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		})
		if err == unix.EAGAIN {
			s.blocked = true
			return done, errBlocked
		}
		if err != nil {
			s.err = err
			return done, err
		}
		done += n
	}
	return done, nil
}

// flush writes what was gathered and reports whether all of it went out.
func (s *socketSink) flush() bool {
	if s.gather == nil {
		return true
	}
	n, err := s.push(s.gather[s.off:s.n])
	s.off += n
	if err != nil {
		return false
	}
	bulkPool.Put(s.gather)
	s.gather, s.off, s.n = nil, 0, 0
	return true
}

// writeToSocket is WriteTo for sockets; it reports false for other writers.
func (c *Conn) writeToSocket(w io.Writer) (done int64, err error, ok bool) {
	rc, ok := rawConn(w)
	if !ok {
		return 0, nil, false
	}
	var sink socketSink
	defer sink.flush()
	for {
		if err := c.check(&c.readDeadline); err != nil {
			return done, opError(opRead, "tcp", c.local, c.remote, err), true
		}
		var terr tcpip.Error
		cerr := rc.Write(func(fd uintptr) bool {
			sink.fd, sink.blocked = int(fd), false
			if !sink.flush() {
				return !sink.blocked
			}
			var res tcpip.ReadResult
			res, terr = c.ep.Read(&sink, tcpip.ReadOptions{})
			done += int64(res.Count)
			sink.flush()
			return !sink.blocked
		})
		switch {
		case cerr != nil:
			return done, cerr, true
		case sink.err != nil:
			return done, &net.OpError{Op: opWrite, Net: "tcp", Err: sink.err}, true
		case terr == nil:
		case wouldBlock(terr):
			if err := c.wait(c.inc, &c.readDeadline); err != nil {
				return done, opError(opRead, "tcp", c.local, c.remote, err), true
			}
		default:
			if err := c.readError(terr); err != io.EOF {
				return done, opError(opRead, "tcp", c.local, c.remote, err), true
			}
			return done, nil, true
		}
	}
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
