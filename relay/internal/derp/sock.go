package derp

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/internal/sys"
)

// sock is a TCP connection whose writes never wait for the network once start was called: what the
// system does not take is kept, and flush writes it. So a goroutine that serves one peer can write
// to another's connection, through TLS, and cannot be held up by it.
//
// It reads as much as there is at a time, whatever it is asked for: TLS asks for a record or two.
// So its reader can take what has come already, see readMore, and pass it on as one.
//
// What is kept is bounded. An outbox writes on only after pending was false, 72 KiB at most. The
// answers that TLS and WebSocket give on their own, key updates and pongs, come at the pace at
// which the peer asks for them: one that asks and does not read loses the connection at maxKept.
type sock struct {
	net.Conn // TCP; not *net.TCPConn, whose ReadFrom would pass by what is kept
	raw      sys.RawConn
	tryf     func(fd uintptr) bool // s.try, bound once so that writing allocates nothing
	restf    func(fd uintptr) bool // s.tryRest, likewise
	pacef    func(fd uintptr)      // s.paceSocket, likewise
	kick     func()                // starts whoever flushes; nil until start

	held   atomic.Bool // rest is not empty
	unsent int         // the limit that holdUnsent set last; one caller at a time
	pacing pacing      // of pace; one caller at a time

	// Of the reading goroutine.
	in    []byte // read and not asked for yet, at the end of inbuf
	inbuf *buffer
	inerr error
	tryin func(fd uintptr) bool // s.tryRead, bound once
	stay  bool                  // do not ask the system for more

	mu       sync.Mutex
	flushing bool   // flush holds the system's write lock; others only add to rest
	p        []byte // what try is to write
	rest     []byte // what the system has not taken yet, at the end of buf
	buf      *buffer
	err      error // first failure of a write: they all fail from then on
}

// maxKept is a batch and as much again for what is not an outbox's: more than a peer that reads at
// all leaves behind.
const maxKept = 2 * LargeBuffer

var errKeptTooMuch = errors.New("relay: the other side wants answers but does not read them")

// newSock returns conn with writes that can do without waiting, or conn itself if it is not TCP.
func newSock(conn net.Conn) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, ok := sys.Nonblocking(tcp)
	if !ok {
		return conn
	}
	s := &sock{Conn: conn, raw: raw}
	s.tryf, s.restf, s.tryin, s.pacef = s.try, s.tryRest, s.tryRead, s.paceSocket
	return s
}

// start ends the time in which writes wait as on any connection.
func (s *sock) start(kick func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kick = kick
}

// Read implements net.Conn.
func (s *sock) Read(p []byte) (int, error) {
	if len(s.in) == 0 && s.stay {
		return 0, errNoneLeft
	}
	if len(s.in) == 0 && len(p) > 0 {
		s.inerr = nil
		if err := s.raw.Read(s.tryin); err != nil {
			return 0, err
		}
		if s.inerr != nil {
			return 0, s.inerr
		}
	}
	n := copy(p, s.in)
	if s.in = s.in[n:]; len(s.in) == 0 {
		s.inbuf.Free()
		s.inbuf = nil
	}
	return n, nil
}

// tryRead reads what there is, and reports false if that is nothing. No buffer is held meanwhile.
func (s *sock) tryRead(fd uintptr) bool {
	buf := NewBuffer(LargeBuffer)
	n, err := sys.Read(fd, buf.B)
	switch {
	case n > 0:
		s.inbuf, s.in = buf, buf.B[:n]
		return true
	case err == nil:
		s.inerr = io.EOF
	case err != sys.ErrWouldBlock:
		s.inerr = &net.OpError{Op: "read", Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: err}
	}
	buf.Free()
	return s.inerr != nil
}

// await blocks until there is something to read, or an error, which a Read will tell.
func (s *sock) await() {
	if len(s.in) == 0 {
		s.raw.Read(readable)
	}
}

func readable(fd uintptr) bool { return sys.Poll(fd, sys.PollIn) != 0 }

// readMore is a Read of conn, a layer above s or s itself, that takes what has come already and
// neither waits nor asks the system. It reports dry where there is nothing whole; otherwise a read
// that brings nothing has met an error, which comes again.
func (s *sock) readMore(conn io.Reader, p []byte) (n int, dry bool) {
	s.stay = true
	n, err := conn.Read(p)
	s.stay = false
	return n, errors.Is(err, errNoneLeft)
}

// errNoneLeft is temporary, which is how TLS knows that it may go on later.
var errNoneLeft net.Error = noneLeftError{}

type noneLeftError struct{}

func (noneLeftError) Error() string   { return "relay: nothing is left of what was read" }
func (noneLeftError) Timeout() bool   { return true }
func (noneLeftError) Temporary() bool { return true }

// Write writes p; after start it keeps what cannot be written at once.
func (s *sock) Write(p []byte) (int, error) {
	s.mu.Lock()
	if s.kick == nil {
		s.mu.Unlock()
		return s.Conn.Write(p)
	}
	left := p
	if s.err == nil && len(s.rest) == 0 && !s.flushing {
		s.p = p
		err := s.raw.Write(s.tryf)
		if s.err == nil {
			s.err = err
		}
		left, s.p = s.p, nil
	}
	if s.err != nil {
		err := s.err
		s.mu.Unlock()
		return 0, err
	}
	err := s.keepLocked(left)
	kick := s.kick
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if len(left) > 0 {
		kick()
	}
	return len(p), nil
}

// keepLocked adds b to rest, or fails the connection if that is too much.
func (s *sock) keepLocked(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if len(s.rest)+len(b) > maxKept {
		s.err = errKeptTooMuch
		return s.err
	}
	if s.buf == nil {
		s.buf = NewBuffer(LargeBuffer)
		s.rest = s.buf.B[:0]
	}
	s.rest = append(s.rest, b...)
	s.held.Store(true)
	return nil
}

// try writes as much of s.p as the system takes. The caller of Write holds the lock.
func (s *sock) try(fd uintptr) bool {
	s.p, s.err = writeSome(fd, s.p)
	return true
}

// tryRest writes as much of the rest as the system takes, and reports whether that is anything.
func (s *sock) tryRest(fd uintptr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.rest)
	if s.err == nil {
		s.rest, s.err = writeSome(fd, s.rest)
	}
	return len(s.rest) < before || s.err != nil
}

// writeSome writes b without waiting and returns what is left of it.
func writeSome(fd uintptr, b []byte) ([]byte, error) {
	for len(b) > 0 {
		n, err := sys.Write(fd, b)
		switch err {
		case nil:
			b = b[n:]
		case sys.ErrWouldBlock:
			return b, nil
		default:
			return b, err
		}
	}
	return b, nil
}

// holdUnsent limits what the system holds unsent. A change by less than a quarter is not worth a
// system call.
func (s *sock) holdUnsent(limit int) {
	if d := limit - s.unsent; 4*d < s.unsent && -4*d < s.unsent {
		return
	}
	s.unsent = limit
	s.raw.Control(func(fd uintptr) { sys.SetUnsentLimit(fd, limit) })
}

// pace counts n written bytes and has the system send in the way that suits the path.
func (s *sock) pace(n int) {
	if s.pacing.due(n) {
		s.raw.Control(s.pacef)
	}
}

func (s *sock) paceSocket(fd uintptr) {
	state, ok := sys.ReadTCPState(fd)
	if ok && s.pacing.sample(state, time.Now()) {
		sys.SetPacing(fd, s.pacing.limit)
		setCongestion(fd, s.pacing.control)
	}
}

// pending reports whether flush has something to do.
func (s *sock) pending() bool { return s.held.Load() }

// flush waits until nothing is kept any more. It fails when nothing moves for as long as limit. One
// caller at a time.
func (s *sock) flush(limit time.Duration) error {
	for {
		s.mu.Lock()
		if s.err != nil || len(s.rest) == 0 {
			s.buf.Free()
			s.buf, s.rest = nil, nil
			s.flushing = false
			s.held.Store(false)
			err := s.err
			s.mu.Unlock()
			return err
		}
		s.flushing = true
		s.mu.Unlock()
		s.SetWriteDeadline(time.Now().Add(limit))
		err := s.raw.Write(s.restf)
		s.SetWriteDeadline(time.Time{})
		if err != nil {
			s.mu.Lock()
			s.err = err
			s.mu.Unlock()
		}
	}
}
