package userstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// The program decides before a SYN is answered: an accepted connection works like any other, a
// rejected one is refused.
func TestListenRequests(t *testing.T) {
	p := newPair(t, 0)
	next := make(chan func(*ConnRequest), 1)
	l, err := p.b.ListenRequests(7, func(in *ConnRequest) { (<-next)(in) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.b.Listen(netip.AddrPortFrom(netip.Addr{}, 7)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Listen on a port with a RequestListener: %v", err)
	}
	for _, from := range []*Stack{p.a, p.b} { // b reaches itself without the device
		for _, to := range []netip.Addr{addrB4, addrB6} {
			dst := netip.AddrPortFrom(to, 7)
			next <- func(in *ConnRequest) {
				if in.Dst != dst {
					t.Errorf("request to %v, want %v", in.Dst, dst)
				}
				c, err := in.Accept()
				if err != nil {
					t.Errorf("accepting: %v", err)
					return
				}
				io.Copy(c, c)
				c.Close()
			}
			c, err := from.DialContext(t.Context(), "tcp", dst.String())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(c, "round trip")
			c.(*Conn).CloseWrite()
			if got, err := io.ReadAll(c); string(got) != "round trip" || err != nil {
				t.Errorf("%v: got %q, %v", dst, got, err)
			}
			c.Close()
			next <- (*ConnRequest).Reject
			if _, err := from.DialContext(t.Context(), "tcp", dst.String()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("dialing %v: %v, want ECONNREFUSED", dst, err)
			}
		}
	}
	l.Close()
	l.Close()
	_, err = p.a.DialContext(t.Context(), "tcp", netip.AddrPortFrom(addrB4, 7).String())
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialing the port of a closed RequestListener: %v", err)
	}
	ln, err := p.b.Listen(netip.AddrPortFrom(netip.Addr{}, 7))
	if err != nil {
		t.Fatalf("listening on the port of a closed RequestListener: %v", err)
	}
	ln.Close()
	p.b.Close()
	if _, err := p.b.ListenRequests(8, (*ConnRequest).Reject); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ListenRequests on a closed stack: %v", err)
	}
}

// A dropped request is retransmitted by its sender.
func TestDrop(t *testing.T) {
	t.Parallel()
	p := newPair(t, 0)
	var handled atomic.Int64
	if _, err := p.b.ListenRequests(7, func(in *ConnRequest) {
		if handled.Add(1) == 1 {
			in.Drop()
			return
		}
		acceptOne(t, in)
	}); err != nil {
		t.Fatal(err)
	}
	c := burst{t: t}
	c.dial(p.a, netip.AddrPortFrom(addrB4, 7), 1)
	c.wg.Wait()
	if handled.Load() != 2 {
		t.Errorf("%d requests, want 2", handled.Load())
	}
}

// Close drops the waiting requests.
func TestCloseDropsRequests(t *testing.T) {
	p := newPair(t, 0)
	answerc := make(chan struct{})
	if _, err := p.b.ListenRequests(7, func(in *ConnRequest) {
		<-answerc
		in.Reject()
	}); err != nil {
		t.Fatal(err)
	}
	p.b.synQueue.admission.places = 4
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { p.a.DialContext(ctx, "tcp", netip.AddrPortFrom(addrB4, 7).String()) })
	}
	eventually(t, "all requests have come", func() bool {
		_, all := requestCounts(p.b)
		return all == 10
	})
	p.b.Close()
	close(answerc)
	eventually(t, "no request remains", func() bool {
		working, all := requestCounts(p.b)
		return working == 0 && all == 0
	})
	cancel()
	wg.Wait()
}

// A connection may be dialed again from the same port while the other side is in TIME-WAIT.
func TestTimeWaitIsReopened(t *testing.T) {
	p := newPair(t, 0)
	if _, err := p.b.ListenRequests(7, func(in *ConnRequest) { acceptOne(t, in) }); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		wq := new(waiter.Queue)
		ep, terr := p.a.gv.NewEndpoint(tcp.ProtocolNumber, header.IPv4ProtocolNumber, wq)
		if terr != nil {
			t.Fatal(terr)
		}
		entry, readyc := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr)
		wq.EventRegister(&entry)
		if terr := ep.Bind(tcpip.FullAddress{Addr: addressOf(addrA4), Port: 5000}); terr != nil {
			t.Fatal(terr)
		}
		ep.Connect(fullAddress(netip.AddrPortFrom(addrB4, 7)))
		select {
		case <-readyc:
		case <-time.After(800 * time.Millisecond): // gVisor retransmits a SYN after a second
			t.Fatal("no answer to the first SYN")
		}
		wq.EventUnregister(&entry)
		share, err := p.a.memory.acquire(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		c := newConn(p.a, share, ep, wq, 1000)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != "x" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		c.Close()
		eventually(t, "the connection has ended", func() bool {
			return tcp.EndpointState(ep.State()) == tcp.StateClose
		})
	}
}

// Close ends a handshake with a peer that does not answer.
func TestCloseDuringHandshake(t *testing.T) {
	p := newPair(t, 0)
	accepted := make(chan error)
	_, err := p.b.ListenRequests(7, func(in *ConnRequest) {
		p.mu.Lock()
		p.drop = func([]byte) bool { return true }
		p.mu.Unlock()
		go p.b.Close()
		c, err := in.Accept()
		if err == nil {
			c.Close()
		}
		accepted <- err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go p.a.DialContext(ctx, "tcp", netip.AddrPortFrom(addrB4, 7).String())
	select {
	case err := <-accepted:
		if err == nil {
			t.Error("Accept succeeded without an ACK")
		}
	case <-time.After(5 * time.Second):
		t.Error("Accept did not return after Close")
	}
}
