package userstack

import (
	"cmp"
	"errors"
	"io"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"

	"ginnel/internal/sys"
	"ginnel/tuning"
)

// firstReadSize is how much is read from a host socket when its content is expected to be short.
// Most data that are not bulk fit.
const firstReadSize = 2 << 10

var firstReadPool = sync.Pool{New: func() any { return new([firstReadSize]byte) }}

// socketSource is a host socket as the payload of a gVisor write, whose length must be known in
// advance. Short data are read ahead into a buffer. For bulk data the kernel is asked how many
// bytes wait, and gVisor reads them directly into its own memory.
type socketSource struct {
	c         *Conn
	fd        uintptr
	readAhead *[firstReadSize]byte // from firstReadPool; holds ahead, nil if nothing was read ahead
	ahead     []byte               // bytes of the next write that precede those in the socket
	queued    int                  // bytes of the next write that are still in the socket
	bulk      bool                 // the last read filled firstReadSize
	err       error                // of the last system call

	done int64       // bytes written so far
	terr tcpip.Error // of the last write
}

// Len implements tcpip.Payloader.
func (s *socketSource) Len() int { return len(s.ahead) + s.queued }

// Read implements tcpip.Payloader.
func (s *socketSource) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if len(s.ahead) > 0 {
		n := copy(b, s.ahead)
		s.ahead = s.ahead[n:]
		return n, nil
	}
	n, err := sys.Read(s.fd, b[:min(len(b), s.queued)])
	switch {
	case err != nil:
		s.err = err
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	s.queued -= n
	return n, nil
}

// write writes one piece of the waiting data to gVisor. It reports false if no data wait, so that
// the poller waits for the socket.
func (s *socketSource) write(fd uintptr) bool {
	s.fd, s.terr = fd, nil
	if len(s.ahead) == 0 {
		if s.err = s.prepare(s.c.segmentSize); s.err != nil {
			return s.err != sys.ErrWouldBlock
		}
	}
	if s.done == 0 {
		tuning.GrowStack() // only now, because a connection that sends nothing needs no larger stack
	}
	var n int64
	n, s.terr = s.c.ep.Write(s, tcpip.WriteOptions{Atomic: true})
	s.done += n
	s.c.notSent.add(int(n))
	if len(s.ahead) == 0 {
		s.release()
	}
	return true
}

// prepare determines the content of the next write, up to limit bytes. It returns io.EOF at the end
// of the stream and sys.ErrWouldBlock if no data wait.
func (s *socketSource) prepare(limit int) error {
	s.queued = 0
	if s.bulk {
		n, err := sys.Waiting(s.fd)
		if err != nil {
			return err
		}
		if s.queued = min(n, limit); n > 0 {
			s.bulk = n >= firstReadSize
			return nil
		}
	}
	s.readAhead = firstReadPool.Get().(*[firstReadSize]byte)
	n, err := sys.Read(s.fd, s.readAhead[:min(firstReadSize, limit)])
	if n == 0 || err != nil {
		s.release()
		return cmp.Or(err, io.EOF)
	}
	s.ahead = s.readAhead[:n]
	if s.bulk = n == firstReadSize; s.bulk {
		more, err := sys.Waiting(s.fd)
		if err == nil {
			s.queued = min(more, limit-n)
		}
	}
	return nil
}

// release returns the read-ahead buffer to its pool.
func (s *socketSource) release() {
	if s.readAhead != nil {
		firstReadPool.Put(s.readAhead)
		s.readAhead, s.ahead = nil, nil
	}
}

// readFromSocket is ReadFrom for host sockets. It reports false for other readers.
func (c *Conn) readFromSocket(r io.Reader) (done int64, err error, ok bool) {
	rc, ok := sys.Stream(r)
	if !ok {
		return 0, nil, false
	}
	src := &socketSource{c: c}
	defer src.release()
	write := src.write // a method value is allocated, so it is made only once
	for {
		if err := c.check(&c.writeDeadline); err != nil {
			return src.done, opError(opWrite, "tcp", c.local, c.remote, err), true
		}
		if c.mustWait() {
			if err := c.wait(c.writablec, &c.writeDeadline); err != nil {
				return src.done, opError(opWrite, "tcp", c.local, c.remote, err), true
			}
			continue
		}
		err := rc.Read(write)
		switch {
		case err != nil:
			return src.done, err, true
		case src.err == io.EOF:
			return src.done, nil, true
		case src.err != nil && src.err != sys.ErrWouldBlock:
			return src.done, &net.OpError{Op: opRead, Net: "tcp", Err: src.err}, true
		case src.terr == nil:
		case wouldBlock(src.terr):
			if c.growSendBuffer() {
				continue
			}
			if err := c.wait(c.writablec, &c.writeDeadline); err != nil {
				return src.done, opError(opWrite, "tcp", c.local, c.remote, err), true
			}
		default:
			return src.done, opError(opWrite, "tcp", c.local, c.remote, c.errorOf(src.terr)), true
		}
	}
}

// socketSink is a host socket as the destination of gVisor reads. Short pieces are gathered, so
// that they need one system call; long pieces are written directly.
type socketSink struct {
	c       *Conn
	fd      uintptr
	gather  *[bulkSize]byte // from bulkPool; nil if nothing is gathered
	off, n  int             // gather[off:n] is not written yet
	blocked bool            // the socket is full
	err     error           // of the last system call, except for a full socket

	done int64       // bytes read from gVisor so far
	terr tcpip.Error // of the last read
}

// gatherMax is the length in bytes from which a piece is not gathered.
const gatherMax = 8 << 10

var errSocketFull = errors.New("socket is full")

// Write implements io.Writer for tcpip.Endpoint.Read. After a short write the rest stays in gVisor.
func (s *socketSink) Write(b []byte) (int, error) {
	if len(b) < gatherMax {
		if s.gather == nil {
			s.gather = bulkPool.Get().(*[bulkSize]byte)
		}
		if len(b) <= len(s.gather)-s.n {
			s.n += copy(s.gather[s.n:], b)
			return len(b), nil
		}
	}
	if !s.flush() {
		return 0, errSocketFull
	}
	if len(b) < gatherMax {
		return s.Write(b)
	}
	return s.push(b)
}

// push writes b until all is written or the socket is full.
func (s *socketSink) push(b []byte) (done int, err error) {
	for done < len(b) {
		n, err := sys.Write(s.fd, b[done:])
		switch {
		case err == sys.ErrWouldBlock:
			s.blocked = true
			return done, errSocketFull
		case err != nil:
			s.err = err
			return done, err
		default:
			done += n
		}
	}
	return done, nil
}

// flush writes the gathered bytes and reports whether all are written.
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

// read moves waiting data from gVisor to the socket. It reports false if the socket is full, so
// that the poller waits for it.
func (s *socketSink) read(fd uintptr) bool {
	s.fd, s.blocked, s.terr = fd, false, nil
	if !s.flush() {
		return !s.blocked
	}
	var res tcpip.ReadResult
	res, s.terr = s.c.ep.Read(s, tcpip.ReadOptions{})
	s.done += int64(res.Count)
	s.c.consumed(res.Count)
	s.flush()
	return !s.blocked
}

// writeToSocket is WriteTo for host sockets. It reports false for other writers.
func (c *Conn) writeToSocket(w io.Writer) (done int64, err error, ok bool) {
	rc, ok := sys.Stream(w)
	if !ok {
		return 0, nil, false
	}
	sink := &socketSink{c: c}
	read := sink.read // a method value is allocated, so it is made only once
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
			if err := c.wait(c.readablec, &c.readDeadline); err != nil {
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
