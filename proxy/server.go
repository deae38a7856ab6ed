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

	"github.com/things-go/go-socks5"

	"ginnel/internal/share"
	"ginnel/internal/sockowner"
)

// Server is a proxy for local programs. Dial must be set; every other field may be left zero. Times
// and bounds that are zero or less mean what stands in brackets. No field may be changed once Serve
// has been called.
//
// Close waits for the functions in it, so they must return when their context ends.
type Server struct {
	// Dial reaches a destination. network is "tcp"; addr is host:port, where host may be a name,
	// passed on as the client wrote it. ctx ends when the client goes away, after DialTimeout, or with
	// Close. What a client is told of an error is decided by errors.Is and errors.As:
	// fs.ErrPermission, ENETUNREACH, EHOSTUNREACH, a *net.DNSError that is not found, ECONNREFUSED,
	// and timeouts.
	//
	// Half-close is passed on if the conn has CloseWrite. Bytes move by the conn's own io.ReaderFrom
	// and io.WriterTo if it has them; both are given the client's socket itself.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// ListenPacket opens the far side of one UDP association; nil refuses UDP. WriteTo is given a
	// *Addr, valid during the call only, whose host may be a name. ReadFrom returns a *Addr, an Addr
	// or a *net.UDPAddr.
	ListenPacket func(ctx context.Context) (net.PacketConn, error)

	// Auth says whether a password is right; nil allows everybody. It must compare in constant time.
	Auth func(user, password string) bool

	// Pages answers requests to the listener itself; nil means 404. It sees only requests whose Host
	// is loopback, or that came by a unix socket, and on other listeners only those with the right
	// password.
	Pages http.Handler

	// TrustPage lets a request for a page through that has no password, because it proves by other
	// means that its sender may see it; nil means that there are none.
	TrustPage func(*http.Request) bool

	// DialTimeout bounds a dial (30 s).
	DialTimeout time.Duration

	// HandshakeTimeout bounds the wait for a client's first bytes, and the reading of a request (10
	// s).
	HandshakeTimeout time.Duration

	// IdleTimeout ends a kept-alive HTTP connection and a UDP association that carry nothing (5 min).
	// Tunnels may be idle for as long as they like.
	IdleTimeout time.Duration

	// MaxHandshakes bounds the connections that are half-open or idle between HTTP requests (1024).
	// When there are as many, Serve leaves further ones in the backlog of the listener until there
	// is room: it closes those that are idle, and half-open ones whose client has been silent for
	// too long (gate.go). Connections in use are bounded by the descriptors there are: when these
	// run out, Serve waits for some, and gives up half-open connections.
	MaxHandshakes int

	// MaxAssociations bounds UDP associations (256). When there are as many, a further one takes the
	// place of one that is idle, or of a client address that has more; otherwise it is refused.
	MaxAssociations int

	// SocketBuffer is the room that is asked for in each direction of a UDP socket of the host, in
	// bytes (1 MiB).
	SocketBuffer int

	// Log is for the operator; nil discards.
	Log *slog.Logger

	// ConnLog is given one line per tunnel, UDP association and HTTP request when it ends; nil
	// discards.
	ConnLog *slog.Logger

	setup      sync.Once
	live       lifetime
	gate       gate
	counters   counters
	udp        udpState
	front      front
	socks5     *socks5.Server // with Auth
	socks5Open *socks5.Server // without
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

// patientShare is the part of HandshakeTimeout for which a full gate waits for a silent client at
// the most.
const patientShare = 2

// prepare makes what the zero Server lacks. It runs once, before anything else does.
func (s *Server) prepare() {
	s.live.init()
	s.gate.init(s.maxHandshakes(), s.handshakeTimeout()/patientShare)
	s.socks5, s.socks5Open = newSOCKS5(s.Auth), newSOCKS5(nil)
	s.front.init(s)
	s.live.wg.Go(s.front.serve)
}

// Serve accepts connections on ln until it fails or the Server is closed. It may be called for
// several listeners. ln is closed when Serve returns; connections live on until Close. The error is
// never nil, and is net.ErrClosed after Close.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close()
	if s.Dial == nil {
		return errNoDial
	}
	reach := reachOf(ln.Addr())
	if reach == reachNetwork && s.Auth == nil {
		return fmt.Errorf("serving %v: %w", ln.Addr(), ErrNeedsAuth)
	}
	return s.whileLive(ln, func() error {
		return s.accept(ln, func(nc net.Conn) {
			s.start(nc, reach)
			s.makeRoom()
		})
	})
}

// ServeUser serves as Serve does, without asking for a password, the connections that programs of
// this user on this machine make, and closes all others. ln is on a loopback address. Where the
// system does not tell whose connection one is, all are closed.
func (s *Server) ServeUser(ln net.Listener) error {
	defer ln.Close()
	if s.Dial == nil {
		return errNoDial
	}
	return s.whileLive(ln, func() error {
		return s.accept(ln, func(nc net.Conn) {
			if !sockowner.IsOurs(nc) {
				s.counters.authRefused.Add(1)
				nc.Close()
				return
			}
			s.start(nc, reachUser)
			s.makeRoom()
		})
	})
}

// whileLive runs serve, which Close waits for and ends by closing c.
func (s *Server) whileLive(c io.Closer, serve func() error) error {
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

// Delays between attempts to accept after a failure that is expected to pass.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// acceptLines bounds the lines about such failures: clients can cause them.
var acceptLines = share.Rate[netip.Prefix]{Each: 2, All: 2, Span: time.Minute}

// accept hands connections to start until the listener fails or the Server is closed.
func (s *Server) accept(ln net.Listener, start func(net.Conn)) error {
	var delay time.Duration
	lines := share.NewLines(s.log().With("listener", ln.Addr()), slog.LevelWarn, "accepting a connection failed", acceptLines)
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
		if !passes(err) {
			return fmt.Errorf("accepting on %v: %w", ln.Addr(), err)
		}
		delay = min(max(2*delay, minAcceptDelay), maxAcceptDelay)
		lines.Write(time.Now(), netip.Prefix{}, "err", err, "retry", delay)
		// The commonest cause is a lack of file descriptors. The oldest half-open connection is worth
		// less than a new one.
		if oldest := s.gate.evictOldest(time.Now()); oldest != nil {
			s.evict(oldest)
		}
		if !s.live.sleep(delay) {
			return errServerClosed
		}
	}
}

// passes reports whether an error of Accept is about the state of the system or of one connection,
// and not about the listener.
func passes(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && errno != syscall.EBADF && errno != syscall.EINVAL
}

// start begins the handshake of nc in a goroutine of its own.
func (s *Server) start(nc net.Conn, reach reach) {
	c := &conn{Conn: nc, srv: s, reach: reach}
	if !s.live.add(c) {
		nc.Close()
		return
	}
	s.counters.openConnections.Add(1)
	s.gate.enter(c, time.Now())
	s.live.wg.Go(c.handshake)
}

// makeRoom returns once there is room for a further half-open connection, or the Server is closed.
// Until then the accept loop leaves new clients in the backlog of its listener.
func (s *Server) makeRoom() {
	for {
		displaced, wait := s.gate.relieve(time.Now())
		switch {
		case displaced != nil:
			s.evict(displaced)
		case wait == 0 || !s.awaitRoom(wait):
			return
		}
	}
}

// awaitRoom waits until the gate may have room, for limit at the most. It reports false if the
// Server is closed.
func (s *Server) awaitRoom(limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-s.gate.roomc:
	case <-t.C:
	case <-s.live.donec:
		return false
	}
	return true
}

// admitIdle counts c as idle, at the cost of the connection that has been idle for longest if there
// are too many.
func (s *Server) admitIdle(c *conn) {
	if oldest := s.gate.enterIdle(c, time.Now()); oldest != nil {
		s.evict(oldest)
	}
}

func (s *Server) evict(c *conn) {
	s.counters.handshakesEvicted.Add(1)
	c.evicted.Store(true)
	c.Close()
}

// Close ends everything: listeners, connections and dials. It returns when all of the Server's
// goroutines have ended, and may be called again.
func (s *Server) Close() error {
	s.setup.Do(s.prepare)
	s.live.end()
	s.live.wg.Wait()
	return nil
}

// reach says from where clients can come to a listener.
type reach int

const (
	reachNetwork  reach = iota // other machines, or an address of a kind we do not know
	reachLoopback              // this machine
	reachUnix                  // whoever the permissions of a socket file allow
	reachUser                  // this user on this machine
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
