package service

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"ginnel/internal/sys"
)

const (
	tlsHandshake     = 0x16 // the first byte of a TLS connection, and of no HTTP request
	firstByteTimeout = 15 * time.Second
	acceptPause      = 50 * time.Millisecond
)

// Splitter tells the connections of one port apart by their first byte, so that TLS and plain HTTP
// can share it. Run accepts; each connection then has a goroutine until its first byte is there.
// Close ends all of them.
type Splitter struct {
	ln         net.Listener
	log        *slog.Logger
	TLS, Plain *branch
	wg         sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	waiting map[net.Conn]bool // for their first byte
}

// NewSplitter returns a Splitter of the connections of ln, which Run accepts.
func NewSplitter(ln net.Listener, log *slog.Logger) *Splitter {
	return &Splitter{ln: ln, log: log, TLS: newBranch(ln), Plain: newBranch(ln), waiting: make(map[net.Conn]bool)}
}

// Run accepts until Close. It goes on after a failed accept, such as one for lack of file
// descriptors.
func (s *Splitter) Run() {
	for {
		conn, err := s.ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.log.Warn("accepting a connection failed", "err", err)
			time.Sleep(acceptPause)
		default:
			s.admit(conn)
		}
	}
}

func (s *Splitter) admit(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return
	}
	s.waiting[conn] = true
	s.wg.Go(func() { s.sort(conn) })
}

// sort gives a connection to its branch.
func (s *Splitter) sort(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(firstByteTimeout))
	first, whole, err := sys.Peek(conn)
	conn.SetReadDeadline(time.Time{})
	if !s.leave(conn) || err != nil {
		conn.Close()
		return
	}
	to := s.Plain
	if first == tlsHandshake {
		to = s.TLS
	}
	to.give(whole)
}

// leave reports whether the splitter is still open.
func (s *Splitter) leave(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, conn)
	return !s.closed
}

// Close closes the port and the connections that have not sent anything yet.
func (s *Splitter) Close() error {
	err := s.ln.Close()
	s.TLS.Close()
	s.Plain.Close()
	s.mu.Lock()
	s.closed = true
	for conn := range s.waiting {
		conn.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

// branch is the listener for one kind of connections.
type branch struct {
	addr  net.Addr
	connc chan net.Conn
	donec chan struct{}
	once  sync.Once
}

func newBranch(ln net.Listener) *branch {
	return &branch{addr: ln.Addr(), connc: make(chan net.Conn), donec: make(chan struct{})}
}

// give hands a connection to whoever accepts.
func (b *branch) give(conn net.Conn) {
	select {
	case b.connc <- conn:
	case <-b.donec:
		conn.Close()
	}
}

// Accept implements net.Listener.
func (b *branch) Accept() (net.Conn, error) {
	select {
	case conn := <-b.connc:
		return conn, nil
	case <-b.donec:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (b *branch) Close() error {
	b.once.Do(func() { close(b.donec) })
	return nil
}

// Addr implements net.Listener.
func (b *branch) Addr() net.Addr { return b.addr }
