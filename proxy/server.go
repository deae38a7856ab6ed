package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"ginnel/internal/share"
)

// Server is a proxy for local programs. Dial must be set; every other field may be left zero. Times
// and bounds that are zero or less mean the default in brackets. No field may be changed once Serve
// has been called.
//
// Close waits for running calls of these functions, so they must return when their context ends.
type Server struct {
	// Dial connects to a destination. network is "tcp"; addr is host:port, where host may be a name,
	// exactly as the client wrote it. ctx ends when the client hangs up, after DialTimeout, or with
	// Close. The kind of error decides the reply to the client (errors.Is and errors.As):
	// fs.ErrPermission, ENETUNREACH, EHOSTUNREACH, a *net.DNSError with IsNotFound, ECONNREFUSED, and
	// timeouts are told apart.
	//
	// Half-close is passed on if the conn has CloseWrite. If the conn is an io.ReaderFrom or an
	// io.WriterTo, these methods copy the bytes; both are given the client's socket itself.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// ListenPacket opens the socket of one UDP association in the network behind the proxy; nil
	// refuses UDP. WriteTo is given a *Addr, valid during the call only, whose host may be a name.
	// ReadFrom returns a *Addr, an Addr or a *net.UDPAddr.
	ListenPacket func(ctx context.Context) (net.PacketConn, error)

	// Auth reports whether user and password are right; nil means that no password is needed. It must
	// compare in constant time.
	Auth func(user, password string) bool

	// Pages answers HTTP requests that are for the listener itself; nil means 404. It sees a request
	// only if its Host is loopback or it came over a unix socket. On a listener that other machines
	// can reach, the request also needs the right password.
	Pages http.Handler

	// TrustPage reports whether a request for a page needs no password, because it proves by other
	// means that its sender may see the page; nil means that every request needs one.
	TrustPage func(*http.Request) bool

	// DialTimeout bounds a dial (30 s).
	DialTimeout time.Duration

	// HandshakeTimeout bounds the wait for the first bytes of a client, and the reading of a request
	// (10 s).
	HandshakeTimeout time.Duration

	// IdleTimeout ends HTTP keep-alive connections and UDP associations that carry nothing (5 min).
	// Tunnels have no idle timeout.
	IdleTimeout time.Duration

	// MaxHandshakes bounds the connections that are in a handshake or idle between HTTP requests
	// (1024). At the bound, Serve leaves further ones in the backlog of the listener until there is
	// room. To make room it closes idle connections, and handshakes whose client has been silent for
	// too long (see handshakeLimit). Connections in use are bounded by the process's descriptors only:
	// when these run out, Serve evicts idle connections and handshakes, and tries again.
	MaxHandshakes int

	// MaxAssociations bounds the UDP associations (256). At the bound, a further one evicts one that
	// is idle, or one of a client address that has more; if there is none, it is refused.
	MaxAssociations int

	// SocketBuffer is the size of the send and receive buffers that UDP sockets of the host ask for,
	// in bytes (1 MiB).
	SocketBuffer int

	// Log receives what an operator has to know; nil discards it.
	Log *slog.Logger

	// ConnLog receives one line per tunnel, UDP association and HTTP request when it ends; nil
	// discards them.
	ConnLog *slog.Logger

	setup    sync.Once
	live     lifetime
	limit    handshakeLimit
	counters counters
	udp      udpState
	http     httpProxy
	socks5   socks5Servers
}

func (s *Server) dialTimeout() time.Duration { return orDefault(s.DialTimeout, 30*time.Second) }
func (s *Server) handshakeTimeout() time.Duration {
	return orDefault(s.HandshakeTimeout, 10*time.Second)
}
func (s *Server) idleTimeout() time.Duration { return orDefault(s.IdleTimeout, 5*time.Minute) }
func (s *Server) maxHandshakes() int         { return orDefault(s.MaxHandshakes, 1024) }
func (s *Server) maxAssociations() int       { return orDefault(s.MaxAssociations, 256) }
func (s *Server) socketBuffer() int          { return orDefault(s.SocketBuffer, 1<<20) }
func (s *Server) log() *slog.Logger          { return cmp.Or(s.Log, discard) }
func (s *Server) connLog() *slog.Logger      { return cmp.Or(s.ConnLog, discard) }

func orDefault[T int | time.Duration](v, def T) T {
	if v > 0 {
		return v
	}
	return def
}

var discard = slog.New(slog.DiscardHandler)

// silenceDivisor gives the longest time for which a silent client is spared when others wait:
// HandshakeTimeout divided by it.
const silenceDivisor = 2

// prepare initializes the zero Server. It runs once, before everything else.
func (s *Server) prepare() {
	s.live.init()
	s.limit.init(s.maxHandshakes(), s.handshakeTimeout()/silenceDivisor)
	s.socks5 = socks5Servers{asking: newSOCKS5(s.Auth), open: newSOCKS5(nil)}
	s.http.init(s)
	s.live.wg.Go(s.http.serve)
}

// Serve accepts connections on ln until ln fails or the Server is closed. It may be called for
// several listeners. It closes ln before it returns; connections stay open until Close. The error
// is never nil; after Close it wraps net.ErrClosed.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close()
	if s.Dial == nil {
		return errNoDial
	}
	reach := reachOf(ln.Addr())
	if reach == reachNetwork && s.Auth == nil {
		return fmt.Errorf("serving %v: %w", ln.Addr(), ErrNeedsAuth)
	}
	return s.runUntilClosed(ln, func() error {
		return s.accept(ln, func(nc net.Conn) {
			s.start(nc, reach)
			s.makeRoom()
		})
	})
}

// ServeUser is like Serve, except that it serves only connections from processes of this user on
// this machine, and asks them for no password. It closes all others. ln is on a loopback address.
// Where the system does not tell the owner of a connection, every connection is closed.
func (s *Server) ServeUser(ln net.Listener) error {
	defer ln.Close()
	if s.Dial == nil {
		return errNoDial
	}
	return s.runUntilClosed(ln, func() error {
		return s.accept(ln, func(nc net.Conn) {
			s.start(nc, reachUser)
			s.makeRoom()
		})
	})
}

// runUntilClosed runs serve. Close ends it by closing c, and waits for it.
func (s *Server) runUntilClosed(c io.Closer, serve func() error) error {
	s.setup.Do(s.prepare)
	if !s.live.begin() {
		return errServerClosed
	}
	defer s.live.wg.Done()
	if !s.live.add(c) {
		return errServerClosed
	}
	defer s.live.remove(c)
	return serve()
}

// Delays before Accept is tried again after a transient error.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// acceptLines limits the log lines about such errors, because clients can cause them.
var acceptLines = share.Rate[netip.Prefix]{Each: 2, All: 2, Span: time.Minute}

// accept hands connections to start until the listener fails or the Server is closed.
func (s *Server) accept(ln net.Listener, start func(net.Conn)) error {
	var delay time.Duration
	log := s.log().With("listener", ln.Addr())
	lines := share.NewLines(log, slog.LevelWarn, "accepting a connection failed", acceptLines)
	for {
		nc, err := ln.Accept()
		if err == nil {
			delay = 0
			start(nc)
			continue
		}
		if s.live.ended() {
			return errServerClosed
		}
		if !isTransient(err) {
			return fmt.Errorf("proxy: accepting on %v: %w", ln.Addr(), err)
		}
		delay = min(max(2*delay, minAcceptDelay), maxAcceptDelay)
		lines.Write(time.Now(), netip.Prefix{}, "err", err, "retry", delay)
		// The usual cause is a lack of descriptors. The oldest handshake is worth less than a new
		// connection.
		if oldest := s.limit.evictOldest(time.Now()); oldest != nil {
			s.evict(oldest)
		}
		if !s.live.sleep(delay) {
			return errServerClosed
		}
	}
}

// isTransient reports whether an error of Accept concerns the state of the system or of a single
// connection, not the listener.
func isTransient(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && errno != syscall.EBADF && errno != syscall.EINVAL
}

// start runs the handshake of nc in a goroutine of its own.
func (s *Server) start(nc net.Conn, reach reach) {
	c := &conn{Conn: nc, srv: s, reach: reach}
	if !s.live.add(c) {
		nc.Close()
		return
	}
	s.counters.openConnections.Add(1)
	s.limit.addHandshake(c, time.Now())
	s.live.wg.Go(c.handshake)
}

// makeRoom returns once there is room for a further handshake, or the Server is closed. Until then
// the accept loop leaves new clients in the backlog of its listener.
func (s *Server) makeRoom() {
	for {
		evicted, wait := s.limit.makeRoom(time.Now())
		switch {
		case evicted != nil:
			s.evict(evicted)
		case wait == 0 || !s.awaitRoom(wait):
			return
		}
	}
}

// awaitRoom waits until s.limit may have room, at most for timeout. It returns false if the Server
// is closed.
func (s *Server) awaitRoom(timeout time.Duration) bool {
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-s.limit.roomc:
	case <-t.C:
	case <-s.live.ctx.Done():
		return false
	}
	return true
}

// addIdle counts c as idle. If there are too many, it evicts the connection that has been idle for
// longest.
func (s *Server) addIdle(c *conn) {
	if oldest := s.limit.addIdle(c, time.Now()); oldest != nil {
		s.evict(oldest)
	}
}

func (s *Server) evict(c *conn) {
	s.counters.handshakesEvicted.Add(1)
	c.evicted.Store(true)
	c.Close()
}

// Close ends all listeners, connections and dials. It returns when the Server's goroutines have
// ended. It may be called several times.
func (s *Server) Close() error {
	s.setup.Do(s.prepare)
	s.live.end()
	s.live.wg.Wait()
	return nil
}

// reach says which clients can connect to a listener.
type reach int

const (
	reachNetwork  reach = iota // other machines; also the default for unknown kinds of addresses
	reachLoopback              // any user of this machine
	reachUnix                  // the users whom the permissions of the socket file allow
	reachUser                  // only this user of this machine
)

func reachOf(a net.Addr) reach {
	if t, ok := a.(*net.TCPAddr); ok && t.IP.IsLoopback() {
		return reachLoopback
	}
	if a.Network() == "unix" {
		return reachUnix
	}
	return reachNetwork
}
