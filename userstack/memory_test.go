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

// accepting has l's connections sent to the channel.
func accepting(t *testing.T, s *Stack, addr netip.AddrPort) <-chan *Conn {
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

// What connections whose readers are slow hold stays within the budget, however many there are, and
// every byte arrives once they are read.
func TestBuffersStayWithinBudget(t *testing.T) {
	const budget, conns = 16 << 20, 100
	p := &pair{mtu: DefaultMTU, buffers: budget}
	p.start(t)
	accepted := accepting(t, p.b, netip.AddrPortFrom(addrB4, 80))
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
	wg.Wait() // nothing takes more
	total := 0
	for _, n := range sent {
		total += n
	}
	// Each stack holds what is in one direction, half of its budget.
	if total > budget {
		t.Errorf("%d connections hold %d bytes, want at most %d", conns, total, budget)
	}
	t.Logf("%d connections hold %d bytes, of %d", conns, total, budget)
	if total < conns*minShare/2 {
		t.Errorf("%d connections hold no more than %d bytes", conns, total)
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
		t.Errorf("%d bytes arrived of %d", got, total)
	}
	allGiven(t, p.a)
	allGiven(t, p.b)
}

// A dial beyond what there is room for waits for a connection to close; so does one from outside.
func TestConnectionsBeyondBudget(t *testing.T) {
	p := &pair{mtu: DefaultMTU, buffers: minBuffers}
	p.start(t)
	accepted := accepting(t, p.b, netip.AddrPortFrom(addrB4, 80))
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

	dialled := make(chan error, 1)
	go func() {
		c, err := p.a.DialContext(t.Context(), "tcp", "100.64.0.2:80")
		if err == nil {
			defer c.Close()
			_, err = c.Write([]byte("x"))
		}
		dialled <- err
	}()
	conns[0].Close() // b's end of it stays open, so b has no room
	if err := <-dialled; err != nil {
		t.Fatalf("dialling when a connection has closed: %v", err)
	}
	select {
	case <-accepted:
		t.Fatal("accepted without room")
	case <-time.After(10 * time.Millisecond):
	}
	far[0].Close()
	c := <-accepted
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := c.Read(make([]byte, 2)); n != 1 {
		t.Errorf("reading what was sent while waiting for room: %d bytes, %v", n, err)
	}
}

// Close ends a dial that waits for room.
func TestCloseEndsWaitForRoom(t *testing.T) {
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
		t.Error("New takes buffers that are too small for anything")
	}
}

// What is closed keeps its grant until what was written has been taken.
func TestClosedConnKeepsGrant(t *testing.T) {
	p := &pair{mtu: DefaultMTU, buffers: 8 << 20}
	p.start(t)
	accepted := accepting(t, p.b, netip.AddrPortFrom(addrB4, 80))
	c, err := p.a.DialContext(t.Context(), "tcp", "100.64.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	sent, _ := io.Copy(c, neverEnding{})
	c.Close()
	if got, _ := grantsOf(p.a); got != 1 {
		t.Fatalf("%d grants for a closed connection with %d bytes written", got, sent)
	}
	far := <-accepted
	defer far.Close()
	if got, err := io.Copy(io.Discard, far); got != sent || err != nil {
		t.Errorf("%d bytes arrived of %d: %v", got, sent, err)
	}
	allGiven(t, p.a)
}

func grantsOf(s *Stack) (number, bytes int) {
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	return s.memory.shares, s.memory.granted[receiving] + s.memory.granted[sending]
}

// allGiven waits until connections that are closed have given back what they were granted.
func allGiven(t *testing.T, s *Stack) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		number, bytes := grantsOf(s)
		if number == 0 && bytes == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d grants of %d bytes after all connections have closed", number, bytes)
		}
	}
}

// neverEnding is a reader of zeros, without an end of its own.
type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// An Accept that waits for room ends with its deadline, its listener and its stack.
func TestAcceptWaitsForRoom(t *testing.T) {
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

// The buffers of a node that has its default of memory, 640 MiB, have room for ten thousand
// connections.
func TestRoomForTenThousand(t *testing.T) {
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
		t.Errorf("there is room for %d", granted)
	}
}
