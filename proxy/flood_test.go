package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// floodSize leaves room under the usual limit of descriptors: a flood holds one per client here and one per half-open
// connection.
func floodSize(t *testing.T, s *Server) int {
	t.Helper()
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	return max(s.maxHandshakes()+500, min(10000, int(lim.Cur)-2*s.maxHandshakes()-500))
}

// A good client gets in while others hold as many half-open connections as they like, in any state.
func TestHalfOpenFlood(t *testing.T) {
	for name, opening := range map[string]string{
		"silent": "", "SOCKS5": "\x05", "SOCKS4": "\x04\x01", "HTTP": "GET http://a/ HT", "TLS": "\x16\x03\x01\x02\x00\x01\x00",
	} {
		t.Run(name, func(t *testing.T) {
			s := &Server{Dial: dialEcho}
			addr := serve(t, s)
			n := floodSize(t, s)
			if name != "silent" {
				n /= 4
			}
			for i := range n {
				nc, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				io.WriteString(nc, opening)
				if i%1000 == 999 {
					for _, open := range openers {
						c := dialChat(t, "tcp", addr)
						open(c)
						c.say("works").hear("works").Close()
					}
				}
			}
			eventually(t, "evictions", func() bool { return s.Stats().HandshakesEvicted >= uint64(n-s.maxHandshakes()) })
			// The one just accepted is counted before the one that it displaces is gone.
			eventually(t, "a bounded number of connections", func() bool {
				return s.Stats().OpenConnections <= int64(s.maxHandshakes())
			})
		})
	}
}

// The oldest goes first; connections that are past their handshake are not touched.
func TestOldestIsEvicted(t *testing.T) {
	s := &Server{Dial: dialEcho, MaxHandshakes: 3}
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

// A connection that waits for its next HTTP request is no better than one that waits for its first.
func TestIdleHTTPConnectionsAreEvicted(t *testing.T) {
	s := &Server{Dial: origin(t, func(w http.ResponseWriter, r *http.Request) {}), MaxHandshakes: 2}
	addr := serve(t, s)
	var idle []*chat
	for i := range 4 {
		c := dialChat(t, "tcp", addr).say("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n").hear("HTTP/1.1 200 OK\r\n")
		idle = append(idle, c)
		eventually(t, "idle", func() bool {
			return gateSize(s) == min(i+1, 2) && s.Stats().HandshakesEvicted == uint64(max(0, i-1))
		})
	}
	discardAll(idle[0])
	discardAll(idle[1])
	for _, c := range idle[2:] {
		c.say("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n")
	}
}

func gateSize(s *Server) int {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	return s.gate.order.Len()
}

// A request under way is not evicted.
func TestBusyHTTPConnectionsAreNotEvicted(t *testing.T) {
	tg := newTarget(t, "tcp")
	s := &Server{Dial: tg.dial, MaxHandshakes: 1}
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

// Connections that have ended are forgotten.
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
		return len(s.live.closers) == 1 && gateSize(s) == 0
	})
}

// When descriptors run out, the half-open connections are given up for the sake of new ones.
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

// TestDescriptorsRunOut has a process of its own, whose limit of descriptors is lowered until Accept really fails.
func TestDescriptorsRunOut(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childEnv+"=descriptors")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

// childEnv names the part that the test binary plays as a child of itself.
const childEnv = "GINNEL_PROXY_TEST_CHILD"

func runChild(part string) int {
	err := errors.New("no part called " + part)
	if part == "descriptors" {
		err = runOutOfDescriptors()
	}
	if err != nil {
		fmt.Println("FAIL", err)
		return 1
	}
	fmt.Println("PASS")
	return 0
}

// runOutOfDescriptors floods a Server from within one process that may have 100 descriptors, and expects a good client
// to be served during and after the shortage.
func runOutOfDescriptors() error {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 100, Max: 100}); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := &Server{Dial: dialEcho}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.Close()
	wg.Go(func() { s.Serve(ln) })

	var flood []net.Conn
	for {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if errors.Is(err, syscall.EMFILE) {
			break
		}
		if err != nil {
			return err
		}
		flood = append(flood, nc)
	}
	// Everything is taken. A new client needs two, one at each end; it frees only its own.
	flood[len(flood)-1].Close()
	if err := tryEcho(ln.Addr().String()); err != nil {
		return fmt.Errorf("during the shortage: %w", err)
	}
	if s.Stats().HandshakesEvicted == 0 {
		return errors.New("nothing was evicted")
	}
	for _, nc := range flood {
		nc.Close()
	}
	return tryEcho(ln.Addr().String())
}

func tryEcho(addr string) error {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(nc, requests["socks4"]+"works")
	got := make([]byte, 13)
	if _, err := io.ReadFull(nc, got); err != nil || string(got[8:]) != "works" {
		return fmt.Errorf("got %q: %w", got, err)
	}
	return nil
}
