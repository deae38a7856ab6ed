package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// running runs serve until the test ends, and fails the test unless serve then returns
// net.ErrClosed.
func running(t *testing.T, s *Server, serve func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- serve() }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("serving ended with %v, want net.ErrClosed", err)
		}
	})
}

// A forward copies all bytes in both directions, and passes on half-close.
func TestForward(t *testing.T) {
	origin, ln := listen(t), listen(t)
	s := &Server{}
	running(t, s, func() error {
		return s.Forward(ln, "origin", func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", origin.Addr().String())
		})
	})
	want := bytes.Repeat([]byte("forward "), 100000)
	go func() {
		c, err := origin.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
		c.Write([]byte("!"))
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		c.Write(want)
		c.(*net.TCPConn).CloseWrite()
	})
	got, err := io.ReadAll(c)
	wg.Wait()
	if err != nil || !bytes.Equal(got, append(want, '!')) {
		t.Errorf("%d bytes came back, %v, want %d", len(got), err, len(want)+1)
	}
	if n := s.Stats().Forwarded; n != 1 {
		t.Errorf("%d forwarded, want 1", n)
	}
}

// If the dial fails, the client is disconnected and the forward keeps serving.
func TestForwardRefused(t *testing.T) {
	ln := listen(t)
	s := &Server{}
	running(t, s, func() error {
		return s.Forward(ln, "nobody", func(context.Context) (net.Conn, error) { return nil, errors.New("nobody there") })
	})
	for range 3 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if errors.Is(err, syscall.ECONNRESET) {
			continue // the reset came during connect
		}
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want a reset or the end", err)
		}
		c.Close()
	}
}
