package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ginnel/internal/key"
)

// Connections that send garbage, half a handshake or nothing do not disturb those that work.
func TestHostileConnections(t *testing.T) {
	srv := startServer(t, ServerConfig{})
	k := key.NewNodePrivate()
	a := dialTest(t, srv.region, ClientConfig{})
	b := dialTest(t, srv.region, ClientConfig{Key: k})
	wantKind(t, a, messageLoggedIn)
	wantKind(t, b, messageLoggedIn)
	var bad []net.Conn
	garbage := make([]byte, 2000)
	for i := range 600 {
		conn, err := net.Dial("tcp", srv.addr)
		if err != nil {
			t.Fatal(err)
		}
		bad = append(bad, conn)
		switch i % 4 {
		case 0: // nothing
		case 1:
			rand.Read(garbage)
			conn.Write(garbage)
		case 2: // the beginning of a ClientHello
			conn.Write([]byte{0x16, 3, 1, 2, 0, 1, 0})
		case 3:
			io.WriteString(conn, "GET /derp HTTP/1.1\r\nHost: x\r\n\r\n")
		}
	}
	start := time.Now()
	for i := range 100 {
		a.Send(k.Public(), [][]byte{[]byte(fmt.Sprint(i))})
		if m := wantKind(t, b, MessagePacket); string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("got %q, want %d", m.Data, i)
		}
	}
	late := dialTest(t, srv.region, ClientConfig{})
	wantKind(t, late, messageLoggedIn)
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("100 packets and a login took %v", d)
	}
	for _, conn := range bad {
		conn.Close()
	}
}

// Logged-in clients that send nonsense lose their connection and nothing else.
func TestHostileFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{})
		a, b := r.client(), r.client()
		for i := range 200 {
			p := r.client()
			garbage := make([]byte, 1+i*37)
			rand.Read(garbage)
			p.conn.Write(garbage)
			if i%2 == 0 {
				p.conn.Close()
			}
		}
		a.send(b.public(), "fine")
		b.wantPacket(a.public(), "fine")
	})
}

// More connections a second than allowed are closed at once and counted; serving goes on (4.8).
func TestAcceptRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startMemRelay(t, ServerConfig{AcceptRate: 1, AcceptBurst: 3})
		for range 3 {
			r.client()
		}
		for range 5 {
			r.dial().wantClosed()
		}
		r.wantMetric(t, `ginnel_relay_refused_connections_total{reason="rate"}`, 5)
		time.Sleep(time.Second)
		r.client().ping()
	})
}

// failingListener fails like a system that lacks file descriptors, then works, then is broken.
type failingListener struct {
	net.Listener
	errs []error
}

func (l *failingListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	return l.Listener.Accept()
}

// A system that lacks descriptors for long fills no log, and the failures are counted.
func TestAcceptFailuresInLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		n := newMemNet()
		s := newTestServer(t, ServerConfig{Log: slog.New(slog.NewTextHandler(&logged, nil))})
		ln := &failingListener{Listener: n.listen("relay.example:80")}
		for range 100 {
			ln.errs = append(ln.errs, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)})
		}
		serveUntilEnd(t, s, ln, nil)
		time.Sleep(2 * time.Minute)
		r := &memRelay{s, t, n}
		r.client().ping()
		written, counted := strings.Count(logged.String(), `msg="accepting`), strings.Count(logged.String(), "suppressed")
		if written < 3 || written > 6 || counted < 1 || counted > 2 {
			t.Errorf("%d lines of failures and %d with counts in 100 s:\n%s", written, counted, logged.String())
		}
	})
}

func TestAcceptSurvivesLackOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		s := newTestServer(t, ServerConfig{})
		ln := &failingListener{Listener: n.listen("relay.example:80")}
		for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, syscall.EMFILE} {
			ln.errs = append(ln.errs, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", errno)})
		}
		serveUntilEnd(t, s, ln, nil)
		r := &memRelay{s, t, n}
		r.client().ping()
	})
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, ServerConfig{})
		broken := errors.New("broken for good")
		if err := s.Serve(&failingListener{Listener: newMemNet().listen("a:80"), errs: []error{broken}}, nil); !errors.Is(err, broken) {
			t.Errorf("Serve = %v", err)
		}
		// Close ends a pause.
		ln := s.Listener(&failingListener{Listener: newMemNet().listen("a:80"), errs: repeatError(syscall.EMFILE, 100)}, nil)
		go func() {
			time.Sleep(10 * time.Second)
			ln.Close()
		}()
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept = %v", err)
		}
		ln.Close()
	})
}

func repeatError(err error, n int) (errs []error) {
	for range n {
		errs = append(errs, err)
	}
	return errs
}

// The whole path over sockets and TLS, with several senders to each receiver, clients that come and
// go, and one that never reads: what arrives is whole and in order, and everything ends when it is
// closed.
func TestLoopbackUnderLoad(t *testing.T) {
	srv := startServer(t, ServerConfig{WriteTimeout: time.Hour})
	stuckKey := key.NewNodePrivate()
	dialTest(t, srv.region, ClientConfig{Key: stuckKey}) // never receives
	const receivers, senders, batches = 2, 3, 60
	var peers []key.NodePublic
	var receiving, sending sync.WaitGroup
	var through atomic.Int64 // receivers that have heard the end of all senders
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range receivers {
		k := key.NewNodePrivate()
		peers = append(peers, k.Public())
		c := dialTest(t, srv.region, ClientConfig{Key: k})
		wantKind(t, c, messageLoggedIn)
		receiving.Go(func() {
			checkStream(t, c, senders)
			through.Add(1)
			drainMessages(c)
		})
	}
	for range senders {
		c := dialTest(t, srv.region, ClientConfig{})
		wantKind(t, c, messageLoggedIn)
		go drainMessages(c)
		sending.Go(func() {
			junk := make([]byte, 1200)
			for n := range batches {
				for _, to := range peers {
					c.Send(to, numbered(n))
				}
				c.Send(stuckKey.Public(), [][]byte{junk, junk, junk})
				if n%20 == 0 { // somebody connects, and leaves without a word
					other, err := DialRegion(ctx, srv.region, ClientConfig{Key: key.NewNodePrivate()})
					if err != nil {
						t.Error(err)
						return
					}
					other.Send(peers[0], [][]byte{{0xff}})
					other.Close()
				}
			}
			for through.Load() < receivers && !t.Failed() { // the end, again and again: packets may be lost
				for _, to := range peers {
					c.Send(to, [][]byte{{0xee}})
				}
				if _, err := c.Ping(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	sending.Wait()
	srv.Close()
	receiving.Wait()
}

// numbered is a batch whose packets tell their batch, number and check sum.
func numbered(batch int) (packets [][]byte) {
	for i := range 10 {
		packets = append(packets, bytes.Repeat([]byte{byte(batch), byte(i)}, 300+i))
	}
	return packets
}

// checkStream receives until all senders have said that they are through.
func checkStream(t *testing.T, c *Client, senders int) {
	type at struct{ batch, n int }
	last := make(map[key.NodePublic]at)
	ended := make(map[key.NodePublic]bool)
	for len(ended) < senders {
		msgs, err := c.Recv()
		if err != nil {
			t.Errorf("receiving: %v", err)
			return
		}
		for _, m := range msgs {
			switch {
			case m.Kind != MessagePacket || len(m.Data) == 1 && m.Data[0] == 0xff:
			case len(m.Data) == 1 && m.Data[0] == 0xee:
				ended[m.Peer] = true
			default:
				now := at{int(m.Data[0]), int(m.Data[1])}
				if !bytes.Equal(m.Data, bytes.Repeat([]byte{byte(now.batch), byte(now.n)}, 300+now.n)) {
					t.Errorf("packet %v changed", now)
				}
				if before, ok := last[m.Peer]; ok && (now.batch < before.batch || now.batch == before.batch && now.n <= before.n) {
					t.Errorf("packet %v after %v", now, before)
				}
				last[m.Peer] = now
			}
		}
	}
}

// A WebSocket over real sockets ends with the code for a normal end, and its writes do not wait
// either.
func TestLoopbackWebSocket(t *testing.T) {
	srv := startServer(t, ServerConfig{})
	k := key.NewNodePrivate()
	cfg := ClientConfig{Key: k}
	s, err := connect(t.Context(), &cfg, nodeTargets(srv.region), newHello(&cfg), TransportWebSocket)
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{session: s}
	c.out = newSender(&c.own)
	c.start()
	defer c.Close()
	wantKind(t, c, messageLoggedIn)
	other := dialTest(t, srv.region, ClientConfig{})
	wantKind(t, other, messageLoggedIn)
	large := bytes.Repeat([]byte{7}, MaxPacket)
	for range 5 {
		other.Send(k.Public(), [][]byte{large})
		if m := wantKind(t, c, MessagePacket); !bytes.Equal(m.Data, large) {
			t.Fatal("packet changed")
		}
	}
	if !s.wire.direct() {
		t.Log("writes wait on this system")
	}
	// A frame that is not allowed: the server ends the WebSocket, normally.
	c.out.box.send(flowID{class: classControl}, appendHeader(nil, frameWatchConns, 0), 0)
	if _, err := c.Recv(); err != io.EOF {
		t.Errorf("end of the WebSocket: %v, want io.EOF for a normal closure", err)
	}
}
