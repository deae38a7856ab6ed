package userstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// acceptAll listens on addr and sends the accepted connections to the channel.
func acceptAll(t *testing.T, s *Stack, addr netip.AddrPort) <-chan *Conn {
	t.Helper()
	l, err := s.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan *Conn, 1000)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c.(*Conn)
		}
	}()
	t.Cleanup(func() { l.Close() })
	return conns
}

// If readers do not read, what their connections buffer stays within the budget, regardless of the
// number of connections. Every byte arrives when they read.
func TestBuffersStayWithinBudget(t *testing.T) {
	const budget, conns = 16 << 20, 100
	p := &pair{mtu: DefaultMTU, buffers: budget}
	p.start(t)
	accepted := acceptAll(t, p.b, netip.AddrPortFrom(addrB4, 80))
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<10)
	var wg sync.WaitGroup
	sent := make([]int, conns)
	var far []*Conn
	for i := range conns {
		c, err := p.a.DialContext(t.Context(), "tcp", "100.64.0.2:80")
		if err != nil {
			t.Fatal(err)
		}
		far = append(far, <-accepted)
		wg.Go(func() {
			defer c.Close()
			c.SetWriteDeadline(time.Now().Add(400 * time.Millisecond))
			for {
				n, err := c.Write(payload)
				if sent[i] += n; err != nil {
					return
				}
			}
		})
	}
	wg.Wait() // all writers are blocked
	total := 0
	for _, n := range sent {
		total += n
	}
	// All data flow in one direction, so each stack uses half of its budget.
	if total > budget {
		t.Errorf("%d connections hold %d bytes, want at most %d", conns, total, budget)
	}
	t.Logf("%d connections hold %d bytes, of %d", conns, total, budget)
	if total < conns*minShare/2 {
		t.Errorf("%d connections hold only %d bytes", conns, total)
	}
	got := 0
	for _, c := range far {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := io.Copy(io.Discard, c)
		if err != nil {
			t.Fatalf("reading what was sent: %v", err)
		}
		got += int(n)
		c.Close()
	}
	if got != total {
		t.Errorf("%d of %d bytes arrived", got, total)
	}
	wantAllReleased(t, p.a)
	wantAllReleased(t, p.b)
}

// A dial for which there is no memory waits for a connection to close. So does an accept.
func TestConnectionsBeyondBudget(t *testing.T) {
	p := &pair{mtu: DefaultMTU, buffers: minBuffers}
	p.start(t)
	accepted := acceptAll(t, p.b, netip.AddrPortFrom(addrB4, 80))
	var conns, far []net.Conn
	for p.a.memory.granted[receiving]+minShare <= p.a.memory.budget {
		c, err := p.a.DialContext(t.Context(), "tcp", "100.64.0.2:80")
		if err != nil {
			t.Fatal(err)
		}
		conns, far = append(conns, c), append(far, <-accepted)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := p.a.DialContext(ctx, "tcp", "100.64.0.2:80")
	var timeout net.Error
	if !errors.Is(err, ErrFull) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("got %v, want a timeout because of %v", err, ErrFull)
	}

	dialed := make(chan error, 1)
	go func() {
		c, err := p.a.DialContext(t.Context(), "tcp", "100.64.0.2:80")
		if err == nil {
			defer c.Close()
			_, err = c.Write([]byte("x"))
		}
		dialed <- err
	}()
	conns[0].Close() // its other end stays open, so b has no memory
	if err := <-dialed; err != nil {
		t.Fatalf("dialing after a connection has closed: %v", err)
	}
	select {
	case <-accepted:
		t.Fatal("accepted without memory")
	case <-time.After(10 * time.Millisecond):
	}
	far[0].Close()
	c := <-accepted
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := c.Read(make([]byte, 2)); n != 1 {
		t.Errorf("reading what was sent while Accept waited: %d bytes, %v", n, err)
	}
}

// Close ends a dial that waits for memory.
func TestCloseEndsWaitForMemory(t *testing.T) {
	p := &pair{mtu: DefaultMTU, buffers: minBuffers}
	p.start(t)
	for g := new(share); g != nil; {
		g, _ = p.a.memory.tryAcquire()
	}
	errc := make(chan error, 1)
	go func() {
		_, err := p.a.DialContext(t.Context(), "tcp", "100.64.0.2:80")
		errc <- err
	}()
	p.a.Close()
	if err := <-errc; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
	if _, err := New(Config{Buffers: minBuffers - 1}); err == nil {
		t.Error("New accepted Buffers below the minimum")
	}
}

// A closed connection keeps its share until its data are acknowledged.
func TestClosedConnKeepsShare(t *testing.T) {
	p := &pair{mtu: DefaultMTU, buffers: 8 << 20}
	p.start(t)
	accepted := acceptAll(t, p.b, netip.AddrPortFrom(addrB4, 80))
	c, err := p.a.DialContext(t.Context(), "tcp", "100.64.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	sent, _ := io.Copy(c, neverEnding{})
	c.Close()
	if got, _ := sharesOf(p.a); got != 1 {
		t.Fatalf("%d shares for a closed connection with %d bytes written, want 1", got, sent)
	}
	far := <-accepted
	defer far.Close()
	if got, err := io.Copy(io.Discard, far); got != sent || err != nil {
		t.Errorf("%d of %d bytes arrived: %v", got, sent, err)
	}
	wantAllReleased(t, p.a)
}

// sharesOf returns the number of shares of s and their sizes together.
func sharesOf(s *Stack) (number, bytes int) {
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	return s.memory.shares, s.memory.granted[receiving] + s.memory.granted[sending]
}

// wantAllReleased waits until all closed connections have released their shares.
func wantAllReleased(t *testing.T, s *Stack) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		number, bytes := sharesOf(s)
		if number == 0 && bytes == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d shares of %d bytes after all connections have closed", number, bytes)
		}
	}
}

// neverEnding is an endless reader of zeros.
type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// An Accept that waits for memory ends with its deadline, its listener and its stack.
func TestAcceptWaitsForMemory(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(s *Stack, l *Listener)
		want error
	}{
		"deadline": {func(_ *Stack, l *Listener) { l.SetDeadline(time.Now()) }, os.ErrDeadlineExceeded},
		"listener": {func(_ *Stack, l *Listener) { l.Close() }, net.ErrClosed},
		"stack":    {func(s *Stack, _ *Listener) { s.Close() }, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pair{mtu: DefaultMTU, buffers: minBuffers}
			p.start(t)
			l, err := p.b.Listen(netip.AddrPortFrom(addrB4, 80))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for g := new(share); g != nil; {
				g, _ = p.b.memory.tryAcquire()
			}
			near, err := p.a.DialContext(t.Context(), "tcp", "100.64.0.2:80")
			if err != nil {
				t.Fatal(err)
			}
			defer near.Close()
			errc := make(chan error, 1)
			go func() {
				_, err := l.Accept()
				errc <- err
			}()
			c.end(p.b, l.(*Listener))
			if err := <-errc; !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// A node with the default of 640 MiB has memory for ten thousand connections.
func TestMemoryForTenThousand(t *testing.T) {
	p := &pair{mtu: DefaultMTU, buffers: (640 - 20) << 20 / 2}
	p.start(t)
	granted := 0
	for {
		g, _ := p.a.memory.tryAcquire()
		if g == nil {
			break
		}
		granted++
	}
	if granted < 10_000 {
		t.Errorf("there is memory for %d connections", granted)
	}
}
