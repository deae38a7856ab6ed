package main

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

// splitter tells the connections of one port apart by their first byte, so that TLS and plain HTTP
// can share it. run accepts; each connection then has a goroutine until its first byte is there.
// Close ends all of them.
type splitter struct {
	ln         net.Listener
	log        *slog.Logger
	tls, plain *branch
	wg         sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	waiting map[net.Conn]bool // for their first byte
}

func newSplitter(ln net.Listener, log *slog.Logger) *splitter {
	return &splitter{ln: ln, log: log, tls: newBranch(ln), plain: newBranch(ln), waiting: make(map[net.Conn]bool)}
}

// run accepts until Close. A failure, as for want of file descriptors, does not end it.
func (s *splitter) run() {
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

func (s *splitter) admit(conn net.Conn) {
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
func (s *splitter) sort(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(firstByteTimeout))
	first, whole, err := sys.Peek(conn)
	conn.SetReadDeadline(time.Time{})
	if !s.leave(conn) || err != nil {
		conn.Close()
		return
	}
	to := s.plain
	if first == tlsHandshake {
		to = s.tls
	}
	to.give(whole)
}

// leave reports whether the splitter is still open.
func (s *splitter) leave(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, conn)
	return !s.closed
}

// Close closes the port and what has not said anything yet.
func (s *splitter) Close() error {
	err := s.ln.Close()
	s.tls.Close()
	s.plain.Close()
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
