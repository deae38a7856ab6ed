package server

import (
	"errors"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"ginnel/internal/share"
)

// This file is what addresses share: the connections that a server has at a time, those that it
// accepts in a second, and the lines that strangers write to its log. Memory of queues is in
// buffer.go.

var errDisplaced = errors.New("relay full, and the client's address has more connections than others")

// clients are the open connections of a server, logged in or not. Its owner guards it.
type clients struct {
	bySource share.Table[netip.Prefix, *serverConn]
	mesh     map[*serverConn]struct{} // of mesh peers, which give way to nobody
}

func (cs *clients) len() int { return cs.bySource.Len() + len(cs.mesh) }

// all yields every connection.
func (cs *clients) all() iter.Seq[*serverConn] {
	return func(yield func(*serverConn) bool) {
		for c := range cs.bySource.Held() {
			if !yield(c) {
				return
			}
		}
		for c := range cs.mesh {
			if !yield(c) {
				return
			}
		}
	}
}

// trust takes the connection of a mesh peer out of what addresses share, unless it has been
// displaced before.
func (cs *clients) trust(c *serverConn) {
	if !cs.bySource.Remove(c) {
		return
	}
	if cs.mesh == nil {
		cs.mesh = make(map[*serverConn]struct{})
	}
	cs.mesh[c] = struct{}{}
}

func (cs *clients) remove(c *serverConn) {
	cs.bySource.Remove(c)
	delete(cs.mesh, c)
}

// room returns which connection has to end so that an address may have one more, if any has. It
// reports false if there is no room: no other address has more than this one. Connections in use
// are worth more than a new one, so none gives way to an equal.
func (cs *clients) room(source netip.Prefix, limit int) (displaced *serverConn, ok bool) {
	if limit <= 0 || cs.len() < limit {
		return nil, true
	}
	_, displaced, ok = cs.bySource.Claim(source)
	return displaced, ok
}

// refusal returns why no connection of an address is taken now, empty if one is.
func (s *Server) refusal(source netip.Prefix) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return refusedClosing
	}
	if _, ok := s.conns.room(source, s.cfg.maxClients()); !ok {
		return refusedFull
	}
	return ""
}

// admit enters a connection and starts to serve it, or returns why not.
func (s *Server) admit(c *serverConn) (refused string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return refusedClosing
	}
	displaced, ok := s.conns.room(c.source, s.cfg.maxClients())
	if !ok {
		return refusedFull
	}
	if displaced != nil {
		s.conns.remove(displaced)
		s.wg.Go(displaced.displace)
	}
	s.conns.bySource.Add(c.source, c)
	s.wg.Go(c.run)
	return ""
}

// displace ends a connection for that of another address.
func (c *serverConn) displace() {
	c.s.metrics.displaced.Inc()
	c.s.clientLogs.full.Write(time.Now(), c.source, "client", c.remote, "what", "connection ended for another address")
	c.conn.Fail(errDisplaced)
}

// leave is the end of a connection.
func (s *Server) leave(c *serverConn) {
	s.mu.Lock()
	s.conns.remove(c)
	s.mu.Unlock()
	s.memory.release(c.source)
}

func (s *Server) countConns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns.len()
}

// trustConn notes that a connection is a mesh peer's.
func (s *Server) trustConn(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns.trust(c)
}

func (s *Server) listConnsLocked() []*serverConn { return slices.Collect(s.conns.all()) }

// clientLogs are the log lines that anybody can cause who reaches the server.
type clientLogs struct {
	full       *share.Lines[netip.Prefix]
	unadmitted *share.Lines[netip.Prefix]
	accepting  *share.Lines[netip.Prefix] // of no address
}

func newClientLogs(log *slog.Logger) clientLogs {
	r := share.Rate[netip.Prefix]{Each: 2, All: 30, Span: time.Minute}
	return clientLogs{
		full:       share.NewLines(log, slog.LevelWarn, "relay full", r),
		unadmitted: share.NewLines(log, slog.LevelWarn, "admission controller not reachable, client admitted", r),
		accepting:  share.NewLines(log, slog.LevelWarn, "accepting a connection failed", r),
	}
}

const (
	acceptSpan = time.Second
	// acceptShare is the part of AcceptBurst that an address may take of the reserve in acceptSpan.
	acceptShare = 4
)

// acceptLimit bounds the connections that are accepted in a second. Beside the burst that everybody
// may take there is a reserve of the same size, for addresses that have had few connections lately:
// one that takes all that it can get does not keep others out.
type acceptLimit struct {
	burst int

	mu     sync.Mutex
	bucket *rate.Limiter
	recent share.Rate[netip.Prefix]
}

// newAcceptLimit returns nil if there is no bound.
func newAcceptLimit(cfg *Config) *acceptLimit {
	if cfg.AcceptRate <= 0 {
		return nil
	}
	burst := max(cfg.AcceptBurst, 1)
	every := int(min(cfg.AcceptRate, 1e9)) + 2*burst + 1 // no more are accepted in a span
	return &acceptLimit{
		burst:  burst,
		bucket: rate.NewLimiter(rate.Limit(cfg.AcceptRate), 2*burst),
		recent: share.Rate[netip.Prefix]{Each: max(burst/acceptShare, 1), All: every, Span: acceptSpan},
	}
}

// allow reports whether a connection is accepted. A nil limit allows all.
func (l *acceptLimit) allow(now time.Time, conn net.Conn) bool {
	if l == nil {
		return true
	}
	source := share.SourceOfHost(conn.RemoteAddr().String())
	l.mu.Lock()
	defer l.mu.Unlock()
	left := l.bucket.TokensAt(now)
	if left < 1 {
		return false
	}
	modest := l.recent.Allow(now, source)
	return (modest || left >= float64(l.burst+1)) && l.bucket.AllowN(now, 1)
}
