package proxy

import (
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"
)

// soonEvicted is a HandshakeTimeout with which a silent client may be evicted after 750 ms.
const soonEvicted = 3 * time.Second

// The oldest handshake is evicted first. Connections after their handshake are never evicted.
func TestOldestIsEvicted(t *testing.T) {
	s := &Server{Dial: dialEcho, MaxHandshakes: 3, HandshakeTimeout: soonEvicted}
	addr := serve(t, s)
	tunnel := dialChat(t, "tcp", addr)
	openers["socks5"](tunnel)
	var idle []*chat
	for i := range 5 {
		c := dialChat(t, "tcp", addr)
		idle = append(idle, c)
		eventually(t, "accepted", func() bool {
			got := s.Stats()
			return got.OpenConnections == int64(1+min(i+1, 3)) && got.HandshakesEvicted == uint64(max(0, i-2))
		})
	}
	idle[0].wantGone()
	idle[1].wantGone()
	for _, c := range idle[2:] {
		openers["socks4"](c)
	}
	tunnel.say("works").hear("works")
	if got := s.Stats().HandshakesFailed; got != 0 {
		t.Errorf("evicted ones are counted as %d failures too", got)
	}
}

// A connection that waits for its next HTTP request counts like one that waits for its first.
func TestIdleHTTPConnectionsAreEvicted(t *testing.T) {
	s := &Server{Dial: origin(t, func(w http.ResponseWriter, r *http.Request) {}), MaxHandshakes: 2}
	addr := serve(t, s)
	var idle []*chat
	for i := range 4 {
		c := dialChat(t, "tcp", addr).say("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n").hear("HTTP/1.1 200 OK\r\n")
		idle = append(idle, c)
		eventually(t, "idle", func() bool {
			return limited(s) == min(i+1, 2) && s.Stats().HandshakesEvicted == uint64(max(0, i-1))
		})
	}
	discardAll(idle[0])
	discardAll(idle[1])
	for _, c := range idle[2:] {
		c.say("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n")
	}
}

// limited returns how many connections count against MaxHandshakes.
func limited(s *Server) int {
	s.limit.mu.Lock()
	defer s.limit.mu.Unlock()
	return s.limit.lenLocked()
}

// A connection whose request is being served is not evicted.
func TestBusyHTTPConnectionsAreNotEvicted(t *testing.T) {
	tg := newTarget(t, "tcp")
	s := &Server{Dial: tg.dial, MaxHandshakes: 1, HandshakeTimeout: soonEvicted}
	addr := serve(t, s)
	busy := dialChat(t, "tcp", addr).say("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n")
	peer := tg.accept()
	for range 3 {
		dialChat(t, "tcp", addr)
	}
	eventually(t, "evictions", func() bool { return s.Stats().HandshakesEvicted == 2 })
	peer.hear("GET / HTTP/1.1\r\n").say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
	busy.hear("HTTP/1.1 200 OK\r\n")
}

// The Server keeps no reference to connections that have ended.
func TestNothingIsKept(t *testing.T) {
	s := &Server{Dial: dialEcho, ListenPacket: listenPacket}
	addr := serve(t, s)
	for _, open := range openers {
		c := dialChat(t, "tcp", addr)
		open(c)
		c.Close()
	}
	for _, part := range []string{"", "\x05", "\x04", "GET"} {
		dialChat(t, "tcp", addr).say(part).Close()
	}
	c := dialChat(t, "tcp", addr)
	openUDP(c)
	c.Close()
	eventually(t, "only the listener is left", func() bool {
		s.live.mu.Lock()
		defer s.live.mu.Unlock()
		return len(s.live.closers) == 1 && limited(s) == 0
	})
}

// When descriptors run out, a handshake is evicted so that a new connection can be accepted.
func TestAcceptErrorEvicts(t *testing.T) {
	ln := newMemListener()
	s := &Server{Dial: dialEcho}
	serveOn(t, s, ln)
	client := ln.dial()
	defer client.Close()
	eventually(t, "accepted", func() bool { return s.Stats().OpenConnections == 1 })
	ln.errs <- &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	newChat(t, client).wantGone()
	if got := s.Stats().HandshakesEvicted; got != 1 {
		t.Errorf("evicted %d, want 1", got)
	}
}

// Each evicted connection is counted once, whatever its client had sent.
func TestEvictionsAreCountedOnce(t *testing.T) {
	const size, most = 50, 10
	s := &Server{Dial: dialEcho, MaxHandshakes: most, HandshakeTimeout: soonEvicted}
	addr := serve(t, s)
	for i := range size {
		dialChat(t, "tcp", addr).say([]string{"", "\x05", "\x05\x01\x00\x05", "\x04\x01", "GET http://a/ HT"}[i%5])
	}
	openers["socks5"](dialChat(t, "tcp", addr)) // the last one to be accepted
	eventually(t, "there is room", func() bool { return s.Stats().OpenConnections <= most+1 })
	got := s.Stats()
	if open := uint64(got.OpenConnections); got.HandshakesEvicted != size+1-open {
		t.Errorf("of %d connections %d are open, and %d evictions are counted", size+1, open, got.HandshakesEvicted)
	}
}
