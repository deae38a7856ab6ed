package proxy

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"ginnel/internal/sys"
)

// TestMain fails if the tests leave a goroutine of this package or of net/http behind.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := goroutines("ginnel/proxy.", "net/http."); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// goroutines returns the stacks of other goroutines that run a function with one of the prefixes.
// It waits up to three seconds for them to end.
func goroutines(prefixes ...string) string {
	var found string
	deadline := time.Now().Add(3 * time.Second)
	for time.Now().Before(deadline) {
		found = ""
		buf := make([]byte, 4<<20)
		stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
		for _, stack := range stacks[1:] {
			for _, prefix := range prefixes {
				if strings.Contains(stack, "\n"+prefix) && !strings.Contains(stack, "testing.tRunner") {
					found += stack + "\n\n"
					break
				}
			}
		}
		if found == "" {
			return ""
		}
		runtime.Gosched()
	}
	return found
}

// serve starts s on a loopback listener and returns its address. If Dial is nil, s dials on the
// host's network.
func serve(t testing.TB, s *Server) string {
	t.Helper()
	return serveOn(t, s, listen(t)).String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := sys.ListenTCP("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// serveOn starts s on ln. At the end of the test it closes s, and checks the error of Serve and the
// counters.
func serveOn(t testing.TB, s *Server, ln net.Listener) net.Addr {
	t.Helper()
	if s.Dial == nil {
		s.Dial = new(net.Dialer).DialContext
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve returned %v, want net.ErrClosed", err)
		}
		if got := s.Stats(); got.OpenConnections != 0 || got.OpenAssociations != 0 {
			t.Errorf("after Close there are %d connections and %d associations", got.OpenConnections, got.OpenAssociations)
		}
	})
	return ln.Addr()
}

// chat is one end of a conversation. Its methods fail the test after an error or after 20 seconds.
type chat struct {
	t testing.TB
	net.Conn
}

func dialChat(t testing.TB, network, addr string) *chat {
	t.Helper()
	nc, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return newChat(t, nc)
}

func newChat(t testing.TB, nc net.Conn) *chat {
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	return &chat{t, nc}
}

// send writes the bytes in hexText, in hexadecimal with spaces.
func (c *chat) send(hexText string) *chat {
	c.t.Helper()
	return c.write(unhex(c.t, hexText))
}

func (c *chat) write(b []byte) *chat {
	c.t.Helper()
	if _, err := c.Conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
	return c
}

func (c *chat) say(text string) *chat { c.t.Helper(); return c.write([]byte(text)) }

// want reads as many bytes as hexText has and compares them. "xx" matches any byte.
func (c *chat) want(hexText string) *chat {
	c.t.Helper()
	fields := strings.Fields(hexText)
	got := make([]byte, len(fields))
	n, err := io.ReadFull(c, got)
	for i, f := range fields {
		if i >= n || f != "xx" && f != hex.EncodeToString(got[i:i+1]) {
			c.t.Fatalf("got % x (%v), want %s", got[:n], err, hexText)
		}
	}
	return c
}

// hear reads as many bytes as text has and compares them.
func (c *chat) hear(text string) *chat {
	c.t.Helper()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(c, got); string(got) != text {
		c.t.Fatalf("got %q (%v), want %q", got[:n], err, text)
	}
	return c
}

// wantEnd expects the orderly end of the stream, with no bytes before it.
func (c *chat) wantEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		c.t.Fatalf("got %q and %v, want the end", rest, err)
	}
}

// wantGone expects the end of the connection, in order or not, with no bytes before it.
func (c *chat) wantGone() {
	c.t.Helper()
	rest, err := io.ReadAll(c)
	if len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("got %q and %v, want the end", rest, err)
	}
}

// finish half-closes the connection.
func (c *chat) finish() *chat {
	c.t.Helper()
	if err := closeWrite(c.Conn); err != nil {
		c.t.Fatal(err)
	}
	return c
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// memConn is one end of an in-memory connection that can be half-closed. It has no buffer.
type memConn struct {
	in, out       net.Conn
	local, remote net.Addr
}

// memPipe returns the two ends of an in-memory connection.
func memPipe() (client, server *memConn) {
	a1, a2 := net.Pipe()
	b1, b2 := net.Pipe()
	here := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1080}
	there := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 50000}
	return &memConn{in: a1, out: b1, local: there, remote: here}, &memConn{in: b2, out: a2, local: here, remote: there}
}

func (c *memConn) Read(p []byte) (int, error)         { return c.in.Read(p) }
func (c *memConn) Write(p []byte) (int, error)        { return c.out.Write(p) }
func (c *memConn) CloseWrite() error                  { return c.out.Close() }
func (c *memConn) LocalAddr() net.Addr                { return c.local }
func (c *memConn) RemoteAddr() net.Addr               { return c.remote }
func (c *memConn) SetReadDeadline(d time.Time) error  { return c.in.SetReadDeadline(d) }
func (c *memConn) SetWriteDeadline(d time.Time) error { return c.out.SetWriteDeadline(d) }
func (c *memConn) SetDeadline(d time.Time) error {
	return errors.Join(c.SetReadDeadline(d), c.SetWriteDeadline(d))
}
func (c *memConn) Close() error { return errors.Join(c.in.Close(), c.out.Close()) }

// memListener accepts the connections that its dial method makes, and returns the errors sent to
// errs.
type memListener struct {
	conns chan net.Conn
	errs  chan error
	once  sync.Once
	donec chan struct{}
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), errs: make(chan error), donec: make(chan struct{})}
}

// dial returns the client's end of a new connection, once the other end is accepted.
func (l *memListener) dial() net.Conn {
	client, server := memPipe()
	l.conns <- server
	return client
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-l.errs:
		return nil, err
	case <-l.donec:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.donec) })
	return nil
}

func (l *memListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1080} }

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialEcho is a Dial to a peer that sends back what it receives, and half-closes at the end.
func dialEcho(context.Context, string, string) (net.Conn, error) {
	near, far := memPipe()
	go func() {
		io.Copy(far, far)
		far.CloseWrite()
	}()
	return near, nil
}

// dialFail is a Dial that fails with err.
func dialFail(err error) dialFunc {
	return func(context.Context, string, string) (net.Conn, error) { return nil, err }
}

// recorder is a Dial that records the destinations.
type recorder struct {
	mu    sync.Mutex
	addrs []string
	next  dialFunc
}

func (r *recorder) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	r.mu.Lock()
	r.addrs = append(r.addrs, addr)
	r.mu.Unlock()
	return r.next(ctx, network, addr)
}

func (r *recorder) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.addrs) == 0 {
		return ""
	}
	return r.addrs[len(r.addrs)-1]
}

// eventually waits until ok returns true, and fails the test after ten seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// syncBuffer is a bytes.Buffer that several goroutines may use.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// discardAll reads until the connection ends, in order or not.
func discardAll(c *chat) {
	c.t.Helper()
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection was not ended")
	}
}
