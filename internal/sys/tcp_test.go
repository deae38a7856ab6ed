package sys

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// What holds for TCP connections in both builds.

func listenLocal(t *testing.T, addr string) net.Listener {
	t.Helper()
	ln, err := ListenTCP(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func listenerAddr(ln net.Listener) netip.AddrPort { return ln.Addr().(*net.TCPAddr).AddrPort() }

// connectTCP returns both ends of a connection.
func connectTCP(t *testing.T, addr string) (dialled, accepted *TCPConn) {
	t.Helper()
	ln := listenLocal(t, addr)
	a, err := DialTCP(t.Context(), listenerAddr(ln))
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	for _, c := range []net.Conn{a, b} {
		c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	return a.(*TCPConn), b.(*TCPConn)
}

// The rules of net.Conn, which package net's own connections keep to.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		ln := listenLocal(t, "127.0.0.1:0")
		if c1, err = DialTCP(t.Context(), listenerAddr(ln)); err != nil {
			return nil, nil, nil, err
		}
		c2, err = ln.Accept()
		return c1, c2, func() { c1.Close(); c2.Close() }, err
	})
}

func TestAddresses(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		if addr[0] == '[' && !nettest.SupportsIPv6() {
			continue
		}
		a, b := connectTCP(t, addr)
		if a.LocalAddr().String() != b.RemoteAddr().String() || a.RemoteAddr().String() != b.LocalAddr().String() {
			t.Errorf("%s: got %v -> %v and %v -> %v", addr, a.LocalAddr(), a.RemoteAddr(), b.RemoteAddr(), b.LocalAddr())
		}
	}
}

// A listener for both families shows clients of IPv4 as such.
func TestMappedAddress(t *testing.T) {
	ln := listenLocal(t, ":0")
	to := netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), listenerAddr(ln).Port())
	a, err := DialTCP(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got, want := b.RemoteAddr().String(), a.LocalAddr().String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Who asks for no address is led to this host, and finds it there.
func TestDialUnspecified(t *testing.T) {
	ln := listenLocal(t, ":0")
	for asked, want := range map[string]string{"0.0.0.0": "127.0.0.1", "::": "::1"} {
		if asked == "::" && !nettest.SupportsIPv6() {
			continue
		}
		c, err := DialTCP(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(asked), listenerAddr(ln).Port()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := c.RemoteAddr().(*net.TCPAddr).IP.String(); got != want {
			t.Errorf("%s: the peer is %s, want %s", asked, got, want)
		}
	}
}

func TestCloseWrite(t *testing.T) {
	a, b := connectTCP(t, "127.0.0.1:0")
	a.Write([]byte("question"))
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b); string(got) != "question" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	b.Write([]byte("answer"))
	b.Close()
	if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestLinger(t *testing.T) {
	a, b := connectTCP(t, "127.0.0.1:0")
	if err := a.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want ECONNRESET", err)
	}
	if err := a.SetLinger(0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: got %v", err)
	}
}

// More than the sockets hold passes, unchanged, whoever is slow.
func TestBulk(t *testing.T) {
	a, b := connectTCP(t, "127.0.0.1:0")
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	go func() { a.Write(sent); a.CloseWrite() }()
	if got, err := io.ReadAll(b); !bytes.Equal(got, sent) || err != nil {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(sent))
	}
}

func TestDialRefused(t *testing.T) {
	ln := listenLocal(t, "127.0.0.1:0")
	to := listenerAddr(ln)
	ln.Close()
	c, err := DialTCP(t.Context(), to)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("got %v, %v, want ECONNREFUSED", c, err)
	}
	if got, want := err.Error(), "dial tcp "+to.String()+": connect: connection refused"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDialCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := DialTCP(ctx, listenerAddr(listenLocal(t, "127.0.0.1:0"))); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestListenerCloses(t *testing.T) {
	ln := listenLocal(t, "127.0.0.1:0")
	got := make(chan error)
	go func() { _, err := ln.Accept(); got <- err }()
	runtime.Gosched()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: got %v", err)
	}
	if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close: got %v", err)
	}
	if ln, err := net.Listen("tcp", ln.Addr().String()); err != nil {
		t.Errorf("the port is not free: %v", err)
	} else {
		ln.Close()
	}
}

func TestListenTaken(t *testing.T) {
	ln := listenLocal(t, "127.0.0.1:0")
	if _, err := ListenTCP(ln.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want EADDRINUSE", err)
	}
}
