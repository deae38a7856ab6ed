package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/internal/key"
)

// TestMain fails the run if a goroutine of this package, or of a connection of it, is left.
func TestMain(m *testing.M) {
	if region := os.Getenv(idleClientsEnv); region != "" {
		os.Exit(runIdleClients(region))
	}
	code := m.Run()
	if code == 0 {
		if left := goroutinesLeft(); left != "" {
			fmt.Fprintf(os.Stderr, "goroutines left:\n%s\n", left)
			code = 1
		}
	}
	os.Exit(code)
}

// goroutinesLeft returns the stacks of goroutines that tests should have ended, after some
// patience: a closed connection needs a moment to tell its reader.
func goroutinesLeft() string {
	var left string
	for range 200 {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		left = ""
		for _, g := range strings.Split(string(buf), "\n\n")[1:] {
			if strings.Contains(g, "ginnel/relay") || strings.Contains(g, "net/http") || strings.Contains(g, "websocket") {
				left += g + "\n\n"
			}
		}
		if left == "" {
			break
		}
		runtime.Gosched()
		time.Sleep(5 * time.Millisecond)
	}
	return left
}

// testLog shows the log of a failing test, or of a verbose one.
func testLog(tb testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// relayNode is a server on loopback and what clients need to find it.
type relayNode struct {
	*Server
	addr   string
	region *Region
}

// startServer serves TLS on loopback with a self-signed certificate until the test ends.
func startServer(tb testing.TB, cfg ServerConfig) *relayNode {
	tb.Helper()
	s := newTestServer(tb, cfg)
	base, pin, err := SelfSignedTLS(tb.TempDir(), "127.0.0.1")
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := Listen(tb.Context(), "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	serveUntilEnd(tb, s, ln, s.TLSConfig(base))
	port := ln.Addr().(*net.TCPAddr).Port
	return &relayNode{Server: s, addr: ln.Addr().String(), region: &Region{RegionID: 1, RegionCode: "test", Nodes: []*Node{
		{Name: "1a", RegionID: 1, HostName: "127.0.0.1", DERPPort: port, CertName: pin},
	}}}
}

// newTestServer returns a server with a key and a log, closed at the end of the test.
func newTestServer(tb testing.TB, cfg ServerConfig) *Server {
	tb.Helper()
	if cfg.Key.IsZero() {
		cfg.Key = key.NewNodePrivate()
	}
	if _, bench := tb.(*testing.B); !bench && cfg.Log == nil {
		cfg.Log = testLog(tb)
	}
	s, err := NewServer(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

// serveUntilEnd serves ln and checks, after the server is closed, that it ended for that reason.
func serveUntilEnd(tb testing.TB, s *Server, ln net.Listener, conf *tls.Config) {
	errc := make(chan error, 1)
	go func() { errc <- s.Serve(ln, conf) }()
	tb.Cleanup(func() {
		s.Close()
		if err := <-errc; !errors.Is(err, net.ErrClosed) {
			tb.Errorf("Serve = %v, want net.ErrClosed", err)
		}
	})
}

// dialTest connects to a region; the client is closed at the end of the test.
func dialTest(tb testing.TB, r *Region, cfg ClientConfig) *Client {
	tb.Helper()
	if cfg.Key.IsZero() {
		cfg.Key = key.NewNodePrivate()
	}
	c, err := DialRegion(tb.Context(), r, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// wantKind receives until a message of that kind comes.
func wantKind(tb testing.TB, c *Client, kind MessageKind) Message {
	tb.Helper()
	for {
		msgs, err := c.Recv()
		if err != nil {
			tb.Fatalf("waiting for a message of kind %d: %v", kind, err)
		}
		for _, m := range msgs {
			if m.Kind == kind {
				m.Data = bytes.Clone(m.Data)
				return m
			}
		}
	}
}

// drainMessages receives until the client ends.
func drainMessages(c *Client) {
	for {
		if _, err := c.Recv(); err != nil {
			return
		}
	}
}

func TestEndToEnd(t *testing.T) {
	srv := startServer(t, ServerConfig{})
	ka, kb := key.NewNodePrivate(), key.NewNodePrivate()
	a := dialTest(t, srv.region, ClientConfig{Key: ka})
	b := dialTest(t, srv.region, ClientConfig{Key: kb})
	wantKind(t, a, messageLoggedIn)
	wantKind(t, b, messageLoggedIn)
	if err := a.Send(kb.Public(), [][]byte{[]byte("hello")}); err != nil {
		t.Fatal(err)
	}
	m := wantKind(t, b, MessagePacket)
	if string(m.Data) != "hello" || m.Peer != ka.Public() {
		t.Fatalf("got %q from %v, want hello from %v", m.Data, m.Peer, ka.Public())
	}
	if got, want := a.Transport(), TransportNative; got != want {
		t.Errorf("transport %v, want %v", got, want)
	}
	if a.ServerKey() != srv.PublicKey() {
		t.Errorf("server key %v, want %v", a.ServerKey(), srv.PublicKey())
	}
}

func TestEndToEndInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		s := newTestServer(t, ServerConfig{})
		base, pin, err := SelfSignedTLS(t.TempDir(), "relay.example")
		if err != nil {
			t.Fatal(err)
		}
		serveUntilEnd(t, s, n.listen("relay.example:443"), s.TLSConfig(base))
		region := &Region{RegionID: 1, Nodes: []*Node{{Name: "1a", RegionID: 1, HostName: "relay.example", CertName: pin}}}
		ka, kb := key.NewNodePrivate(), key.NewNodePrivate()
		a := dialTest(t, region, ClientConfig{Key: ka, DialContext: n.DialContext})
		b := dialTest(t, region, ClientConfig{Key: kb, DialContext: n.DialContext})
		wantKind(t, b, messageLoggedIn)
		a.Send(kb.Public(), [][]byte{[]byte("hello")})
		if m := wantKind(t, b, MessagePacket); string(m.Data) != "hello" {
			t.Errorf("got %q", m.Data)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go drainMessages(a)
		if _, err := a.Ping(ctx); err != nil {
			t.Error(err)
		}
		b.Close()
		a.Close()
		s.Close()
	})
}

// contextTimeout is context.WithTimeout on the test's context.
func contextTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}
