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

// crowdSize is how many connections a crowd of size has: fewer under the race detector, which is
// slow, and still more than may be unanswered.
func crowdSize(size int) int {
	if raceEnabled {
		return max(size/4, maxUnanswered+50)
	}
	return size
}

// crowd dials many connections at once, and expects each to be accepted and to carry data.
type crowd struct {
	t  *testing.T
	wg sync.WaitGroup
}

func (c *crowd) dial(from *Stack, to netip.AddrPort, size int) {
	for range size {
		c.wg.Go(func() { c.dialOne(from, to) })
	}
}

func (c *crowd) dialOne(from *Stack, to netip.AddrPort) {
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

// acceptOne is what a gate does for a crowd.
func acceptOne(t *testing.T, in *ConnRequest) {
	c, err := in.Accept()
	if err != nil {
		t.Errorf("accepting: %v", err)
		return
	}
	echoOne(t, c)
}

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

// requests counts the requests of s that are worked on, and all.
func requests(s *Stack) (working, all int) {
	s.synQueue.mu.Lock()
	defer s.synQueue.mu.Unlock()
	return s.synQueue.admission.working, len(s.synQueue.admission.requests)
}

// eventually waits until done reports true.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !done(); runtime.Gosched() {
		if time.Now().After(limit) {
			t.Fatalf("it does not happen that %s", what)
		}
	}
}

// Connections that are dialed at once are all accepted, even if none is answered for a while.
func TestGateAcceptsCrowd(t *testing.T) {
	const held = 300
	p := newPair(t, 0)
	var asked atomic.Int64
	openc := make(chan struct{})
	open := sync.OnceFunc(func() { close(openc) })
	defer open()
	if _, err := p.b.ListenRequests(7, func(in *ConnRequest) {
		asked.Add(1)
		<-openc
		acceptOne(t, in)
	}); err != nil {
		t.Fatal(err)
	}
	c := crowd{t: t}
	c.dial(p.a, netip.AddrPortFrom(addrB4, 7), crowdSize(2000))
	eventually(t, "many wait for an answer", func() bool { return asked.Load() >= held })
	open()
	c.wg.Wait()
}

// Few connections are decided about at a time, and a crowd is accepted nevertheless.
func TestGateAcceptsCrowdWithFewPlaces(t *testing.T) {
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
	c := crowd{t: t}
	c.dial(p.a, netip.AddrPortFrom(addrB4, 7), crowdSize(1000))
	c.wg.Wait()
	if most.Load() > places/4 {
		t.Errorf("decided about %d connections at a time, want at most %d", most.Load(), places/4)
	}
}

// A peer whose connections are not answered for long does not keep others out, neither of the same
// port nor of another; and of its own connections none is refused.
func TestGateIsShared(t *testing.T) {
	const places = 64
	p := newPair(t, 0)
	p.b.synQueue.admission.places = places
	openc := make(chan struct{})
	for _, port := range []uint16{7, 8} {
		if _, err := p.b.ListenRequests(port, func(in *ConnRequest) {
			if in.Src.Addr() == addrA4 && port == 7 {
				<-openc
			}
			acceptOne(t, in)
		}); err != nil {
			t.Fatal(err)
		}
	}
	greedy, modest := crowd{t: t}, crowd{t: t}
	greedy.dial(p.a, netip.AddrPortFrom(addrB4, 7), crowdSize(2000))
	eventually(t, "the greedy peer has all places that it can get", func() bool {
		working, all := requests(p.b)
		return working == places/4 && all == maxUnanswered
	})
	modest.dial(p.a, netip.AddrPortFrom(addrB6, 7), 10)
	modest.dial(p.a, netip.AddrPortFrom(addrB4, 8), 10)
	modest.wg.Wait()
	close(openc)
	greedy.wg.Wait()
}

// Connections that are dialed at once wait in the backlog of a listener, and none has to do with a
// SYN cookie.
func TestListenerAcceptsCrowd(t *testing.T) {
	size := crowdSize(2000)
	p := newPair(t, 0)
	ln, err := p.b.Listen(netip.AddrPortFrom(netip.Addr{}, 7))
	if err != nil {
		t.Fatal(err)
	}
	c := crowd{t: t}
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
