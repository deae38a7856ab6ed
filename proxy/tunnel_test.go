package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"ginnel/internal/sys"
)

// target is a listener that the Server under test dials for every destination.
type target struct {
	t    testing.TB
	kind string
	ln   net.Listener
}

func newTarget(t testing.TB, kind string) *target {
	t.Helper()
	network, addr := "tcp", "127.0.0.1:0"
	if kind == "unix" {
		network, addr = "unix", t.TempDir()+"/target"
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &target{t, kind, ln}
}

func (tg *target) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if tg.kind == "tcp" {
		return sys.DialTCP(ctx, tg.ln.Addr().(*net.TCPAddr).AddrPort())
	}
	return new(net.Dialer).DialContext(ctx, tg.ln.Addr().Network(), tg.ln.Addr().String())
}

func (tg *target) accept() *chat {
	tg.t.Helper()
	tg.ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(10 * time.Second))
	nc, err := tg.ln.Accept()
	if err != nil {
		tg.t.Fatal(err)
	}
	return newChat(tg.t, nc)
}

// openers open a tunnel in each protocol.
var openers = map[string]func(c *chat){
	"socks5": func(c *chat) { c.send("05 01 00 05 01 00 03 01 61 00 50").want("05 00 05 00 00 01 xx xx xx xx xx xx") },
	"socks4": func(c *chat) { c.send("04 01 00 50 01 02 03 04 00").want("00 5a xx xx xx xx xx xx") },
	"connect": func(c *chat) {
		c.say("CONNECT a:80 HTTP/1.1\r\n\r\n").hear("HTTP/1.1 200 Connection established\r\n\r\n")
	},
}

// pairs lists the kinds of sockets that a tunnel may join. "tcp" is a TCP socket of hostsock, "net"
// one of package net.
var pairs = []struct{ listener, target string }{
	{"tcp", "tcp"}, {"tcp", "unix"}, {"unix", "tcp"}, {"unix", "unix"}, {"tcp", "net"}, {"net", "tcp"},
}

func serveKind(t testing.TB, kind string, s *Server) net.Addr {
	t.Helper()
	if kind == "tcp" {
		return serveOn(t, s, listen(t))
	}
	network, addr := "unix", t.TempDir()+"/proxy"
	if kind == "net" {
		network, addr = "tcp", "127.0.0.1:0"
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, s, ln)
}

// each runs test for every protocol and pair of sockets, on an open tunnel between client and peer.
func each(t *testing.T, test func(t *testing.T, s *Server, client, peer *chat)) {
	for name, open := range openers {
		for _, kind := range pairs {
			t.Run(name+"/"+kind.listener+"-"+kind.target, func(t *testing.T) {
				tg := newTarget(t, kind.target)
				s := &Server{Dial: tg.dial}
				addr := serveKind(t, kind.listener, s)
				client := dialChat(t, addr.Network(), addr.String())
				open(client)
				test(t, s, client, tg.accept())
			})
		}
	}
}

func TestHalfCloseByClient(t *testing.T) {
	each(t, func(t *testing.T, s *Server, client, peer *chat) {
		client.say("question").finish()
		peer.hear("question").wantEnd()
		peer.say("answer").finish()
		client.hear("answer").wantEnd()
		eventually(t, "the tunnel is closed", func() bool { return s.Stats().OpenConnections == 0 })
	})
}

func TestHalfCloseByPeer(t *testing.T) {
	each(t, func(t *testing.T, s *Server, client, peer *chat) {
		peer.say("greeting").finish()
		client.hear("greeting").wantEnd()
		client.say("more").finish()
		peer.hear("more").wantEnd()
		eventually(t, "the tunnel is closed", func() bool { return s.Stats().OpenConnections == 0 })
	})
}

func TestResetByClient(t *testing.T) {
	each(t, func(t *testing.T, _ *Server, client, peer *chat) {
		reset(client)
		peer.wantGone()
	})
}

func TestResetByPeer(t *testing.T) {
	each(t, func(t *testing.T, _ *Server, client, peer *chat) {
		reset(peer)
		client.wantGone()
	})
}

// A reset is passed on as a reset, because after an orderly end a truncated stream would look
// complete.
func TestResetIsPassedOn(t *testing.T) {
	tg := newTarget(t, "tcp")
	client := dialChat(t, "tcp", serve(t, &Server{Dial: tg.dial}))
	openers["socks5"](client)
	peer := tg.accept()
	reset(peer)
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client got %v, want ECONNRESET", err)
	}
}

// A reset from the side that has half-closed is noticed, although the tunnel no longer reads from
// it.
func TestResetAfterHalfClose(t *testing.T) {
	for _, name := range []string{"client", "peer"} {
		t.Run(name, func(t *testing.T) {
			tg := newTarget(t, "tcp")
			s := &Server{Dial: tg.dial}
			first := dialChat(t, "tcp", serve(t, s))
			openers["socks5"](first)
			other := tg.accept()
			if name == "peer" {
				first, other = other, first
			}
			first.finish()
			other.wantEnd()
			reset(first)
			eventually(t, "the tunnel is closed", func() bool { return s.Stats().OpenConnections == 0 })
			eventually(t, "writes of the other side fail", func() bool {
				_, err := other.Write([]byte("x"))
				return err != nil
			})
		})
	}
}

// On a unix socket, the close of a client that had half-closed before is noticed.
func TestUnixClientClosesAfterHalfClose(t *testing.T) {
	tg := newTarget(t, "tcp")
	s := &Server{Dial: tg.dial}
	addr := serveKind(t, "unix", s)
	client := dialChat(t, "unix", addr.String())
	openers["socks5"](client)
	peer := tg.accept()
	client.finish()
	peer.wantEnd()
	client.Close()
	eventually(t, "the tunnel is closed", func() bool { return s.Stats().OpenConnections == 0 })
}

// reset closes the connection with a reset, if it is TCP.
func reset(c *chat) {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// The client gets the reply to a failed request even if it has already sent data.
func TestRefusalAfterDataAhead(t *testing.T) {
	for name, refusal := range map[string]string{
		"socks5":  "\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00",
		"socks4":  "\x00\x5b\x00\x00\x00\x00\x00\x00",
		"connect": "HTTP/1.1 502 Bad Gateway\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			sent := make(chan struct{})
			addr := serve(t, &Server{Dial: func(context.Context, string, string) (net.Conn, error) {
				<-sent
				return nil, syscall.ECONNREFUSED
			}})
			c := dialChat(t, "tcp", addr).say(requests[name]).write(make([]byte, 100_000))
			close(sent)
			c.hear(refusal)
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Error(err)
			}
		})
	}
}

// Bytes that the client sends before the reply are the first of the stream, however they are split.
func TestBytesSentAhead(t *testing.T) {
	data := strings.Repeat("0123456789", 1000) // more than any handshake reads at once
	for name, request := range map[string]string{
		"socks5":  "\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x50",
		"socks4":  "\x04\x01\x00\x50\x01\x02\x03\x04\x00",
		"connect": "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, split := range []int{1, 3, len(request) - 1, len(request), len(request) + 1, len(request) + 700} {
				tg := newTarget(t, "tcp")
				client := dialChat(t, "tcp", serve(t, &Server{Dial: tg.dial}))
				whole := request + data
				client.say(whole[:split])
				client.say(whole[split:])
				client.finish()
				peer := tg.accept()
				peer.hear(data).wantEnd()
			}
		})
	}
}

// A slow reader slows down the sender. In-memory conns have no buffers, so only what the tunnel
// buffers can be sent.
func TestBackpressureInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newMemListener()
		near, far := memPipe()
		s := &Server{Dial: func(context.Context, string, string) (net.Conn, error) { return near, nil }}
		go s.Serve(ln)
		client := ln.dial()
		greet(t, client)

		var sent atomic.Int64
		for _, sender := range []net.Conn{client, far} {
			sent.Store(0)
			go func() {
				for {
					n, err := sender.Write(make([]byte, 1000))
					sent.Add(int64(n))
					if err != nil {
						return
					}
				}
			}()
			synctest.Wait()
			if got := sent.Load(); got > bufferSize+idleBufferSize {
				t.Errorf("%d bytes were taken from the sender while nobody read", got)
			}
		}
		s.Close()
		client.Close()
	})
}

// greet does a SOCKS5 handshake on an in-memory conn.
func greet(t *testing.T, client net.Conn) {
	t.Helper()
	for _, step := range []struct{ say, hear string }{
		{"\x05\x01\x00", "\x05\x00"},
		{"\x05\x01\x00\x03\x01a\x00\x50", "\x05\x00\x00\x01\x7f\x00\x00\x01\xc3\x50"},
	} {
		client.Write([]byte(step.say))
		got := make([]byte, len(step.hear))
		if _, err := io.ReadFull(client, got); err != nil || string(got) != step.hear {
			t.Fatalf("after % x: got % x and %v, want % x", step.say, got, err, step.hear)
		}
	}
}

// With real sockets, only what the tunnel and the kernel buffer can be sent while nobody reads.
func TestBackpressureOverSockets(t *testing.T) {
	tg := newTarget(t, "tcp")
	s := &Server{Dial: tg.dial}
	client := dialChat(t, "tcp", serve(t, s))
	openers["socks5"](client)
	peer := tg.accept()
	client.Conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
	peer.Conn.(*net.TCPConn).SetReadBuffer(64 << 10)

	const much = 256 << 20
	client.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	n, err := io.CopyN(client, zeros{}, much)
	if err == nil {
		t.Fatalf("%d bytes were taken from the sender while nobody read", n)
	}
	got, err := io.CopyN(io.Discard, peer, n)
	if got != n {
		t.Errorf("%d of %d bytes arrived: %v", got, n, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A destination that cannot be half-closed is closed at the end of the client's stream, because it
// would not learn of the end otherwise.
func TestPeerWithoutHalfClose(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	s := &Server{Dial: func(context.Context, string, string) (net.Conn, error) { return near, nil }}
	client := dialChat(t, "tcp", serve(t, s))
	openers["connect"](client)
	client.finish()
	newChat(t, far).wantEnd()
	client.wantEnd()
}

// meshConn is an io.ReaderFrom and an io.WriterTo, as the conns of a userspace stack are.
type meshConn struct {
	*memConn
	readFrom, writeTo chan io.Closer // the arguments of its methods
}

func (c *meshConn) ReadFrom(r io.Reader) (int64, error) {
	c.readFrom <- r.(io.Closer)
	return io.Copy(c.memConn, r)
}

func (c *meshConn) WriteTo(w io.Writer) (int64, error) {
	c.writeTo <- w.(io.Closer)
	return io.Copy(w, c.memConn)
}

// ReadFrom and WriteTo of the dialled conn are given the client's socket, not a wrapper.
func TestFastPathsGetTheSocket(t *testing.T) {
	near, far := memPipe()
	mesh := &meshConn{near, make(chan io.Closer, 1), make(chan io.Closer, 1)}
	s := &Server{Dial: func(context.Context, string, string) (net.Conn, error) { return mesh, nil }}
	client := dialChat(t, "tcp", serve(t, s))
	client.send("05 01 00 05 01 00 03 01 61 00 50").say("ahead").want("05 00 05 00 00 01 xx xx xx xx xx xx")
	peer := newChat(t, far)
	peer.hear("ahead")
	client.say("question")
	peer.hear("question").say("answer")
	client.hear("answer")
	for name, c := range map[string]chan io.Closer{"ReadFrom": mesh.readFrom, "WriteTo": mesh.writeTo} {
		if x := <-c; !isSocket(x) {
			t.Errorf("%s was given a %T, want the socket itself", name, x)
		}
	}
	client.finish()
	peer.wantEnd()
	peer.finish()
	client.wantEnd()
	eventually(t, "bytes are counted", func() bool {
		got := s.Stats()
		return got.BytesSent == uint64(len("aheadquestion")) && got.BytesReceived == uint64(len("answer"))
	})
}

// lengths is a reader whose reads return the lengths in give. It records the sizes of the buffers.
type lengths struct{ give, got []int }

func (l *lengths) Read(p []byte) (int, error) {
	l.got = append(l.got, len(p))
	if len(l.give) == 0 {
		return 0, io.EOF
	}
	n := l.give[0]
	l.give = l.give[1:]
	return n, nil
}

// copyBuffered holds a large buffer only while reads are large.
func TestBufferFollowsTheReads(t *testing.T) {
	const small, large = idleBufferSize, bufferSize
	src := &lengths{give: []int{10, small, large, small, small - 1, 1}}
	want := []int{small, small, large, large, large, small, small}
	m := meter{total: new(atomic.Uint64)}
	if err := copyBuffered(io.Discard, src, &m); err != nil || !slices.Equal(src.got, want) {
		t.Errorf("read into %v (%v), want %v", src.got, err, want)
	}
}

// The two ends of a tunnel behave like the two ends of a net.Conn.
func TestTunnelIsAConn(t *testing.T) {
	tg := newTarget(t, "tcp")
	addr := serve(t, &Server{Dial: tg.dial})
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		client := &chat{t, nil}
		if client.Conn, err = net.Dial("tcp", addr); err != nil {
			return nil, nil, nil, err
		}
		openers["socks5"](client)
		peer, err := tg.ln.Accept()
		return client.Conn, peer, func() { client.Close(); peer.Close() }, err
	})
}

// Bytes arrive unchanged over every kind of socket, in both directions at once.
func TestBulkBothWays(t *testing.T) {
	each(t, func(t *testing.T, s *Server, client, peer *chat) {
		const size = 2 << 20
		errs := make(chan error, 4)
		for _, c := range []*chat{client, peer} {
			go func() {
				_, err := io.Copy(c, io.LimitReader(&pattern{}, size))
				errs <- errors.Join(err, closeWrite(c.Conn))
			}()
			go func() {
				n, err := io.Copy(&patternCheck{}, c)
				if err == nil && n != size {
					err = io.ErrUnexpectedEOF
				}
				errs <- err
			}()
		}
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if got := s.Stats(); got.BytesSent != size || got.BytesReceived != size {
			t.Errorf("counted %d and %d bytes, want %d", got.BytesSent, got.BytesReceived, size)
		}
	})
}

// pattern is a pseudo-random stream, so that lost, repeated or reordered bytes are noticed.
type pattern struct{ at uint32 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(p.at * 2654435761 >> 24)
		p.at++
	}
	return len(b), nil
}

type patternCheck struct{ pattern }

var errPattern = errors.New("bytes changed on the way")

func (p *patternCheck) Write(b []byte) (int, error) {
	want := make([]byte, len(b))
	p.Read(want)
	if !bytes.Equal(b, want) {
		return 0, errPattern
	}
	return len(b), nil
}

func TestConnLog(t *testing.T) {
	var out syncBuffer
	tg := newTarget(t, "tcp")
	s := &Server{Dial: tg.dial, ConnLog: slog.New(slog.NewTextHandler(&out, nil))}
	client := dialChat(t, "tcp", serve(t, s))
	openers["socks5"](client)
	client.say("12345").finish()
	peer := tg.accept()
	peer.hear("12345").say("1234567").finish()
	client.hear("1234567").wantEnd()
	eventually(t, "a line", func() bool { return strings.Contains(out.String(), "\n") })
	line := out.String()
	for _, want := range []string{
		"protocol=socks5", "client=" + client.LocalAddr().String(), "destination=a:80", "sent=5", "received=7", "duration=",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("%q lacks %q", line, want)
		}
	}
	if strings.Contains(line, "err=") || strings.Count(line, "\n") != 1 {
		t.Errorf("got %q, want one line without an error", line)
	}
}
