package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// running runs serve until the test ends and wants it to return net.ErrClosed.
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

// A forwarded connection carries everything, half-close included.
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

// A client whose destination refuses is cut off, and others are not disturbed.
func TestForwardRefused(t *testing.T) {
	ln := listen(t)
	s := &Server{}
	running(t, s, func() error {
		return s.Forward(ln, "nobody", func(context.Context) (net.Conn, error) { return nil, errors.New("nobody there") })
	})
	for range 3 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if errors.Is(err, syscall.ECONNRESET) {
			continue // the reset came as soon as the kernel had connected
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

// Each sender gets answers of its own, of every size.
func TestForwardPackets(t *testing.T) {
	origin, pc := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
	go func() {
		buf := make([]byte, bufferSize)
		for {
			n, from, err := origin.ReadFrom(buf)
			if err != nil {
				return
			}
			origin.WriteTo(buf[:n], from)
		}
	}()
	s := &Server{}
	running(t, s, func() error { return s.ForwardPackets(pc, "origin", dialUDP(origin.LocalAddr())) })
	var clients []net.Conn
	for i := range 3 {
		c, err := net.Dial("udp", pc.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
		fmt.Fprintf(c, "hello from %d", i)
	}
	buf := make([]byte, bufferSize)
	for i, c := range clients {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(buf)
		if want := fmt.Sprintf("hello from %d", i); err != nil || string(buf[:n]) != want {
			t.Errorf("got %q, %v, want %q", buf[:n], err, want)
		}
	}
	large := bytes.Repeat([]byte{7}, 60000)
	clients[0].Write(large)
	if n, err := clients[0].Read(buf); err != nil || !bytes.Equal(buf[:n], large) {
		t.Errorf("%d bytes came back, %v, want %d", n, err, len(large))
	}
	if st := s.Stats(); st.OpenAssociations != 3 || st.DatagramsSent != 4 || st.DatagramsReceived != 4 {
		t.Errorf("stats %+v", st)
	}
}

func dialUDP(to net.Addr) DialFunc {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", to.String())
	}
}

// Senders are bounded, what exceeds is dropped and counted, and idle ones make room.
func TestForwardPacketsBounds(t *testing.T) {
	origin, pc := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
	s := &Server{MaxAssociations: 2, IdleTimeout: 50 * time.Millisecond}
	running(t, s, func() error { return s.ForwardPackets(pc, "origin", dialUDP(origin.LocalAddr())) })
	for range 5 {
		c, err := net.Dial("udp", pc.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("x"))
	}
	eventually(t, "3 drops", func() bool { return s.Stats().DatagramsDropped == 3 })
	eventually(t, "no senders", func() bool { return s.Stats().OpenAssociations == 0 })
}

// Datagrams queue while their destination is dialled, up to a bound; Close ends the dial.
func TestForwardPacketsSlowDial(t *testing.T) {
	pc := listenUDP(t, "127.0.0.1")
	s := &Server{}
	var ended atomic.Bool
	running(t, s, func() error {
		return s.ForwardPackets(pc, "nowhere", func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			ended.Store(true)
			return nil, ctx.Err()
		})
	})
	c, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range forwardQueue + 10 {
		c.Write([]byte("x"))
		time.Sleep(100 * time.Microsecond) // loopback would drop a burst
	}
	eventually(t, "10 drops", func() bool { return s.Stats().DatagramsDropped >= 10 })
	s.Close()
	if !ended.Load() {
		t.Error("the dial outlived Close")
	}
}
