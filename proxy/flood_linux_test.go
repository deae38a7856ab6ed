package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ginnel/internal/sys"
)

// floodSize returns how many clients fit under the limit of descriptors: each takes one here, and
// each connection in a handshake takes one in s.
func floodSize(t *testing.T, s *Server) int {
	t.Helper()
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	return max(s.maxHandshakes()+500, min(10000, int(lim.Cur)-2*s.maxHandshakes()-500))
}

// A good client is served while others hold a flood of unfinished handshakes, in any state.
func TestHalfOpenFlood(t *testing.T) {
	for name, opening := range map[string]string{
		"silent": "", "SOCKS5": "\x05", "SOCKS4": "\x04\x01", "HTTP": "GET http://a/ HT",
		"TLS": "\x16\x03\x01\x02\x00\x01\x00",
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
			// A connection is counted before the one that it evicts is closed.
			eventually(t, "a bounded number of connections", func() bool {
				return s.Stats().OpenConnections <= int64(s.maxHandshakes())
			})
		})
	}
}

// TestDescriptorsRunOut runs in a child process, whose limit of descriptors is so low that Accept
// fails.
func TestDescriptorsRunOut(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		if err := runOutOfDescriptors(); err != nil {
			t.Fatal(err)
		}
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestDescriptorsRunOut$", "-test.v")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestDescriptorsRunOut") {
		t.Errorf("%v\n%s", err, out)
	}
}

// childEnv is set in the environment of the child process.
const childEnv = "GINNEL_PROXY_TEST_CHILD"

// runOutOfDescriptors limits the process to 100 descriptors and floods a Server from within. A good
// client has to be served during and after the shortage.
func runOutOfDescriptors() error {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 100, Max: 100}); err != nil {
		return err
	}
	ln, err := sys.ListenTCP("127.0.0.1:0")
	if err != nil {
		return err
	}
	// The clients take all descriptors and wait in the backlog of the listener.
	var flood []net.Conn
	for !errors.Is(err, syscall.EMFILE) {
		var nc net.Conn
		if nc, err = net.Dial("tcp", ln.Addr().String()); err == nil {
			flood = append(flood, nc)
		}
	}
	// This leaves three descriptors for the server. The last client is served only if the server
	// evicts one connection for each client before it in the backlog.
	for _, nc := range flood[:3] {
		nc.Close()
	}
	s := &Server{Dial: dialEcho}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.Close()
	wg.Go(func() { s.Serve(ln) })
	if err := tryEcho(flood[len(flood)-1]); err != nil {
		return fmt.Errorf("during the shortage: %w", err)
	}
	if s.Stats().HandshakesEvicted == 0 {
		return errors.New("nothing was evicted")
	}
	for _, nc := range flood {
		nc.Close()
	}
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return err
	}
	return tryEcho(nc)
}

func tryEcho(nc net.Conn) error {
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(nc, requests["socks4"]+"works")
	got := make([]byte, 13)
	if _, err := io.ReadFull(nc, got); err != nil || string(got[8:]) != "works" {
		return fmt.Errorf("got %q: %w", got, err)
	}
	return nil
}
