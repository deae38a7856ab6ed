package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// Each client gets the answers to its own datagrams, of every size.
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
	// A datagram is counted after it was sent, so the test may have received it before.
	eventually(t, "3 sessions, 4 datagrams each way", func() bool {
		st := s.Stats()
		return st.OpenAssociations == 3 && st.DatagramsSent == 4 && st.DatagramsReceived == 4
	})
}

func dialUDP(to net.Addr) DialFunc {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", to.String())
	}
}

// Sessions are bounded. Datagrams of further clients are dropped and counted. Idle sessions end.
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
	eventually(t, "no sessions", func() bool { return s.Stats().OpenAssociations == 0 })
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
	eventually(t, "10 drops", func() bool { // loopback may drop some of a burst
		c.Write([]byte("x"))
		return s.Stats().DatagramsDropped >= 10
	})
	if got := s.Stats(); got.OpenAssociations != 1 || got.DatagramsSent != 0 {
		t.Errorf("stats %+v", got)
	}
	s.Close()
	if !ended.Load() {
		t.Error("the dial outlived Close")
	}
}

// memPackets is a net.PacketConn that receives what the test passes to arrive, and discards what is
// written to it.
type memPackets struct {
	in     chan memDatagram
	closec chan struct{}
	once   sync.Once
}

type memDatagram struct {
	from netip.AddrPort
	size int
}

func newMemPackets() *memPackets {
	return &memPackets{in: make(chan memDatagram), closec: make(chan struct{})}
}

// arrive delivers a datagram, and waits until all goroutines of the bubble are idle again.
func (p *memPackets) arrive(from string, size int) {
	p.in <- memDatagram{netip.MustParseAddrPort(from), size}
	synctest.Wait()
}

func (p *memPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-p.in:
		return d.size, net.UDPAddrFromAddrPort(d.from), nil
	case <-p.closec:
		return 0, nil, net.ErrClosed
	}
}

func (p *memPackets) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }
func (p *memPackets) Close() error                              { p.once.Do(func() { close(p.closec) }); return nil }
func (p *memPackets) LocalAddr() net.Addr                       { return new(net.UDPAddr) }
func (p *memPackets) SetDeadline(time.Time) error               { return errors.ErrUnsupported }
func (p *memPackets) SetReadDeadline(time.Time) error           { return errors.ErrUnsupported }
func (p *memPackets) SetWriteDeadline(time.Time) error          { return errors.ErrUnsupported }

// forwardInBubble starts ForwardPackets on a memPackets and returns that. It closes s at the end of
// the test.
func forwardInBubble(t *testing.T, s *Server, dial DialFunc) *memPackets {
	pc := newMemPackets()
	ended := make(chan error, 1)
	go func() { ended <- s.ForwardPackets(pc, "somewhere", dial) }()
	t.Cleanup(func() {
		synctest.Wait() // until ForwardPackets has started
		s.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ended with %v, want net.ErrClosed", err)
		}
		if got := s.Stats(); got.OpenAssociations != 0 {
			t.Errorf("after Close there are %d sessions", got.OpenAssociations)
		}
	})
	return pc
}

// The bytes that all sessions queue during their dials are bounded. Every datagram is counted once,
// and the queued ones are sent in order after the dial.
func TestForwardPacketsQueuedBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{}
		proceed, sizes := make(chan struct{}), make(chan int, 1000)
		pc := forwardInBubble(t, s, sinkAfter(proceed, sizes))
		const large, clients, each = 60000, 5, 10
		for range each {
			for i := range clients {
				pc.arrive(fmt.Sprintf("192.0.2.%d:1", i+1), large)
			}
		}
		const kept = maxQueuedBytes / large
		if got := s.Stats(); got.DatagramsDropped != clients*each-kept {
			t.Errorf("%d of %d datagrams dropped, want all but %d", got.DatagramsDropped, clients*each, kept)
		}
		close(proceed)
		synctest.Wait()
		pc.arrive("192.0.2.1:1", 7)
		if got := s.Stats(); got.DatagramsSent != kept+1 || len(sizes) != kept+1 {
			t.Fatalf("%d datagrams counted as sent, %d arrived, want %d", got.DatagramsSent, len(sizes), kept+1)
		}
		for range kept {
			if n := <-sizes; n != large {
				t.Errorf("a datagram of %d bytes was sent before the queued ones", n)
			}
		}
	})
}

// An address that sends as much as it can, from many ports, cannot fill the queues: datagrams of
// another address are still queued.
func TestForwardPacketsQueuedBytesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{}
		proceed, sizes := make(chan struct{}), make(chan int, 1000)
		pc := forwardInBubble(t, s, sinkAfter(proceed, sizes))
		for i := range 50 {
			pc.arrive(fmt.Sprintf("198.51.100.7:%d", i+1), 60000)
		}
		kept := 50 - int(s.Stats().DatagramsDropped)
		if want := maxQueuedBytes * 3 / 4 / 60000; kept != want {
			t.Errorf("%d datagrams of one address are queued, want %d", kept, want)
		}
		before := s.Stats().DatagramsDropped
		for range 2 {
			pc.arrive("192.0.2.1:1", 60000)
		}
		if n := s.Stats().DatagramsDropped - before; n != 0 {
			t.Errorf("%d of 2 datagrams of another address were dropped", n)
		}
		close(proceed)
		synctest.Wait()
		if len(sizes) != kept+2 {
			t.Errorf("%d datagrams arrived, want %d", len(sizes), kept+2)
		}
	})
}

// sinkAfter returns a DialFunc that waits until proceed is closed and then returns a sink.
func sinkAfter(proceed <-chan struct{}, sizes chan<- int) DialFunc {
	return func(ctx context.Context) (net.Conn, error) {
		select {
		case <-proceed:
			return sink{sizes: sizes, closec: make(chan struct{})}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// sink is a conn to a destination that never answers.
type sink struct {
	net.Conn // nil: crash on any unexpected use
	sizes    chan<- int
	closec   chan struct{}
}

func (c sink) Write(b []byte) (int, error) { c.sizes <- len(b); return len(b), nil }
func (c sink) Close() error                { close(c.closec); return nil }
func (c sink) Read([]byte) (int, error)    { <-c.closec; return 0, net.ErrClosed }

// After a failed dial, further datagrams cause neither a dial nor a log line for a while. All are
// counted as dropped.
func TestForwardPacketsFailedDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		var log syncBuffer
		s := &Server{ConnLog: slog.New(slog.NewTextHandler(&log, nil))}
		pc := forwardInBubble(t, s, func(context.Context) (net.Conn, error) { dials++; return nil, syscall.ECONNREFUSED })
		for range 10 {
			pc.arrive("192.0.2.1:1", 100)
		}
		if lines := strings.Count(log.String(), "connection ended"); dials != 1 || lines != 1 {
			t.Errorf("%d dials and %d log lines for one client, want 1 and 1", dials, lines)
		}
		time.Sleep(failedSessionTime + time.Millisecond)
		pc.arrive("192.0.2.1:1", 100)
		if dials != 2 {
			t.Errorf("%d dials after a second, want 2", dials)
		}
		if got := s.Stats(); got.DatagramsDropped != 11 {
			t.Errorf("%d datagrams counted as dropped, want 11", got.DatagramsDropped)
		}
	})
}

// Forwarding a datagram and its answer does not allocate.
func TestForwardPacketsAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops items at random under the race detector")
	}
	origin, pc := listenUDP(t, "127.0.0.1"), listenUDP(t, "127.0.0.1")
	s := &Server{}
	running(t, s, func() error { return s.ForwardPackets(pc, "origin", dialUDP(origin.LocalAddr())) })
	c, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	origin.SetDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 1200)
	exchange := func() {
		if _, err := c.Write(buf); err != nil {
			t.Fatal(err)
		}
		n, from, err := origin.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := origin.WriteToUDPAddrPort(buf[:n], from); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		exchange()
	}
	if n := testing.AllocsPerRun(500, exchange); n >= 1 {
		t.Errorf("%v allocations for an exchange, want 0", n)
	}
}
