package server

import (
	"errors"
	"iter"
	"net/netip"
	"slices"
	"time"

	"ginnel/internal/share"
)

// This file shares the connections that a server may have among the addresses of its clients. Other
// resources that addresses share are in acceptlimit.go, queuememory.go and clientlogs.go.

var errDisplaced = errors.New("relay is full and the client's address has more connections than others")

// clients are the open connections of a server, logged in or not. Its owner guards it with a lock.
type clients struct {
	bySource share.Table[netip.Prefix, *serverConn]
	mesh     map[*serverConn]struct{} // of mesh peers, which are never displaced
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

// trust marks the connection of a mesh peer, so that it cannot be displaced. It does nothing if the
// connection has been displaced already.
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

// room reports whether an address may have one more connection. If another connection has to end
// for it, displaced is that connection. Only an address that has more connections than this one can
// lose any, because a connection in use is worth more than a new one.
func (cs *clients) room(source netip.Prefix, limit int) (displaced *serverConn, ok bool) {
	if limit <= 0 || cs.len() < limit {
		return nil, true
	}
	_, displaced, ok = cs.bySource.Claim(source)
	return displaced, ok
}

// refusal returns why a connection of an address would be refused now, or "" if it would be
// admitted.
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

// admit enters a connection and starts to serve it. It returns "", or the reason for a refusal.
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

// displace ends a connection in favour of one of another address.
func (c *serverConn) displace() {
	c.s.metrics.displaced.Inc()
	c.s.clientLogs.full.Write(time.Now(), c.source, "client", c.remote, "what", "connection ended for another address")
	c.conn.Fail(errDisplaced)
}

// leave removes a connection that has ended.
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

// trustConn marks a connection as that of a mesh peer.
func (s *Server) trustConn(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns.trust(c)
}

func (s *Server) listConnsLocked() []*serverConn { return slices.Collect(s.conns.all()) }
