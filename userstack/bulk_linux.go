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

// socketSource is a socket as the payload of gVisor's writes: it knows how many bytes wait.
type socketSource struct {
	c    *Conn
	fd   int
	left int   // bytes that the next write may take
	err  error // of the last system call

	done int64       // bytes written so far
	terr tcpip.Error // of the last write
}

// Len implements tcpip.Payloader.
func (s *socketSource) Len() int { return s.left }

// Read implements tcpip.Payloader.
func (s *socketSource) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := readNonBlocking(s.fd, b[:min(len(b), s.left)])
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

// write moves what waits into gVisor, one piece of it. It reports false if nothing waits.
func (s *socketSource) write(fd uintptr) bool {
	s.fd, s.terr = int(fd), nil
	if s.err = s.fill(s.c.pieceSize()); s.err != nil {
		return s.err != unix.EAGAIN
	}
	var n int64
	n, s.terr = s.c.ep.Write(s, tcpip.WriteOptions{Atomic: true})
	s.done += n
	return true
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
		n, _, err = unix.Recvfrom(s.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
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
	src := &socketSource{c: c}
	write := src.write // made once: a method value is an allocation
	for {
		if err := c.check(&c.writeDeadline); err != nil {
			return src.done, opError(opWrite, "tcp", c.local, c.remote, err), true
		}
		err := rc.Read(write)
		switch {
		case err != nil:
			return src.done, err, true
		case src.err == io.EOF:
			return src.done, nil, true
		case src.err != nil && src.err != unix.EAGAIN:
			return src.done, &net.OpError{Op: opRead, Net: "tcp", Err: src.err}, true
		case src.terr == nil:
		case wouldBlock(src.terr):
			if err := c.wait(c.outc, &c.writeDeadline); err != nil {
				return src.done, opError(opWrite, "tcp", c.local, c.remote, err), true
			}
		default:
			return src.done, opError(opWrite, "tcp", c.local, c.remote, c.errorOf(src.terr)), true
		}
	}
}

// pieceSize is what ReadFrom writes at a time: as much as leaves the stack in one batch, in whole segments.
func (c *Conn) pieceSize() int { return c.mss * max(1, (bulkSize-1024)/c.mss) }

// socketSink is a socket as the destination of gVisor's reads. Small pieces are gathered, so that they cost one system
// call; large ones go out as they are.
type socketSink struct {
	c       *Conn
	fd      int
	gather  *[bulkSize]byte // from bulkPool while it holds bytes[:n]
	off, n  int             // gather[off:n] is not yet written
	blocked bool            // the socket takes no more now
	err     error

	done int64       // bytes taken from gVisor so far
	terr tcpip.Error // of the last read
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
		n, err := unix.SendmsgN(s.fd, b[done:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			s.blocked = true
			return done, errBlocked
		case err != nil:
			s.err = err
			return done, err
		default:
			done += n
		}
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

// read moves what gVisor has to the socket. It reports false if the socket takes no more now.
func (s *socketSink) read(fd uintptr) bool {
	s.fd, s.blocked, s.terr = int(fd), false, nil
	if !s.flush() {
		return !s.blocked
	}
	var res tcpip.ReadResult
	res, s.terr = s.c.ep.Read(s, tcpip.ReadOptions{})
	s.done += int64(res.Count)
	s.flush()
	return !s.blocked
}

// writeToSocket is WriteTo for sockets; it reports false for other writers.
func (c *Conn) writeToSocket(w io.Writer) (done int64, err error, ok bool) {
	rc, ok := rawConn(w)
	if !ok {
		return 0, nil, false
	}
	sink := &socketSink{c: c}
	read := sink.read // made once: a method value is an allocation
	for {
		if err := c.check(&c.readDeadline); err != nil {
			return sink.done, opError(opRead, "tcp", c.local, c.remote, err), true
		}
		err := rc.Write(read)
		switch {
		case err != nil:
			return sink.done, err, true
		case sink.err != nil:
			return sink.done, &net.OpError{Op: opWrite, Net: "tcp", Err: sink.err}, true
		case sink.terr == nil:
		case wouldBlock(sink.terr):
			if err := c.wait(c.inc, &c.readDeadline); err != nil {
				return sink.done, opError(opRead, "tcp", c.local, c.remote, err), true
			}
		default:
			if err := c.errorOf(sink.terr); err != io.EOF {
				return sink.done, opError(opRead, "tcp", c.local, c.remote, err), true
			}
			return sink.done, nil, true
		}
	}
}

func readNonBlocking(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}
