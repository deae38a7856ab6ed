package userstack

import (
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// burstSize is the size of a burst: fewer connections under the race detector, which is slow, but
// more than maxUnanswered.
func burstSize(size int) int {
	if raceEnabled {
		return max(size/4, maxUnanswered+50)
	}
	return size
}

// burst dials many connections at once and checks that each is accepted and carries data.
type burst struct {
	t  *testing.T
	wg sync.WaitGroup
}

func (c *burst) dial(from *Stack, to netip.AddrPort, size int) {
	for range size {
		c.wg.Go(func() { c.dialOne(from, to) })
	}
}

func (c *burst) dialOne(from *Stack, to netip.AddrPort) {
	nc, err := from.DialContext(c.t.Context(), "tcp", to.String())
	if err != nil {
		c.t.Errorf("dialing %v: %v", to, err)
		return
	}
	defer nc.Close()
	if _, err := nc.Write([]byte("x")); err != nil {
		c.t.Errorf("writing to %v: %v", to, err)
	}
	if n, err := nc.Read(make([]byte, 1)); n != 1 || err != nil {
		c.t.Errorf("reading from %v: %d bytes, %v", to, n, err)
	}
}

// acceptOne accepts a connection request of a burst.
func acceptOne(t *testing.T, in *ConnRequest) {
	c, err := in.Accept()
	if err != nil {
		t.Errorf("accepting: %v", err)
		return
	}
	echoOne(t, c)
}

// echoOne echoes the byte that a connection of a burst sends.
func echoOne(t *testing.T, c net.Conn) {
	defer c.Close()
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		t.Errorf("reading: %v", err)
	}
	if _, err := c.Write(b[:]); err != nil {
		t.Errorf("writing: %v", err)
	}
}

// requestCounts counts the requests of s that are being handled, and all requests.
func requestCounts(s *Stack) (working, all int) {
	s.synQueue.mu.Lock()
	defer s.synQueue.mu.Unlock()
	return s.synQueue.admission.working, len(s.synQueue.admission.requests)
}

// eventually waits until done reports true.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !done(); runtime.Gosched() {
		if time.Now().After(limit) {
			t.Fatalf("timeout waiting for: %s", what)
		}
	}
}

// Connections that are dialed at once are all accepted, even if none is answered for a while.
func TestListenRequestsAcceptsBurst(t *testing.T) {
	const waiting = 300
	p := newPair(t, 0)
	var handled atomic.Int64
	answerc := make(chan struct{})
	answer := sync.OnceFunc(func() { close(answerc) })
	defer answer()
	if _, err := p.b.ListenRequests(7, func(in *ConnRequest) {
		handled.Add(1)
		<-answerc
		acceptOne(t, in)
	}); err != nil {
		t.Fatal(err)
	}
	c := burst{t: t}
	c.dial(p.a, netip.AddrPortFrom(addrB4, 7), burstSize(2000))
	eventually(t, "many requests are handled", func() bool { return handled.Load() >= waiting })
	answer()
	c.wg.Wait()
}

// A burst of connections is accepted even if few requests may be handled at a time.
func TestListenRequestsAcceptsBurstWithFewPlaces(t *testing.T) {
	const places = 16
	p := newPair(t, 0)
	p.b.synQueue.admission.places = places
	var working, most atomic.Int64
	if _, err := p.b.ListenRequests(7, func(in *ConnRequest) {
		for n := working.Add(1); ; {
			if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		defer acceptOne(t, in)
		runtime.Gosched()
		working.Add(-1)
	}); err != nil {
		t.Fatal(err)
	}
	c := burst{t: t}
	c.dial(p.a, netip.AddrPortFrom(addrB4, 7), burstSize(1000))
	c.wg.Wait()
	if most.Load() > places/4 {
		t.Errorf("handled %d requests at a time, want at most %d", most.Load(), places/4)
	}
}

// A peer whose requests are not answered for long does not delay other peers or other ports, and
// none of its own requests is rejected.
func TestListenRequestsIsFair(t *testing.T) {
	const places = 64
	p := newPair(t, 0)
	p.b.synQueue.admission.places = places
	answerc := make(chan struct{})
	for _, port := range []uint16{7, 8} {
		if _, err := p.b.ListenRequests(port, func(in *ConnRequest) {
			if in.Src.Addr() == addrA4 && port == 7 {
				<-answerc
			}
			acceptOne(t, in)
		}); err != nil {
			t.Fatal(err)
		}
	}
	greedy, modest := burst{t: t}, burst{t: t}
	greedy.dial(p.a, netip.AddrPortFrom(addrB4, 7), burstSize(2000))
	eventually(t, "the greedy peer has all places that it may take", func() bool {
		working, all := requestCounts(p.b)
		return working == places/4 && all == maxUnanswered
	})
	modest.dial(p.a, netip.AddrPortFrom(addrB6, 7), 10)
	modest.dial(p.a, netip.AddrPortFrom(addrB4, 8), 10)
	modest.wg.Wait()
	close(answerc)
	greedy.wg.Wait()
}

// Connections that are dialed at once wait in the backlog of a listener, and none needs a SYN
// cookie.
func TestListenerAcceptsBurst(t *testing.T) {
	size := burstSize(2000)
	p := newPair(t, 0)
	ln, err := p.b.Listen(netip.AddrPortFrom(netip.Addr{}, 7))
	if err != nil {
		t.Fatal(err)
	}
	c := burst{t: t}
	c.dial(p.a, netip.AddrPortFrom(addrB4, 7), size)
	stats := p.b.gv.Stats().TCP
	eventually(t, "all are connected", func() bool { return stats.PassiveConnectionOpenings.Value() == uint64(size) })
	var wg sync.WaitGroup
	for range size {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { echoOne(t, conn) })
	}
	c.wg.Wait()
	wg.Wait()
	if n := stats.ListenOverflowSynCookieSent.Value(); n != 0 {
		t.Errorf("%d SYN cookies were sent, want none", n)
	}
}
