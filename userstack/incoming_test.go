package userstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// A gate decides before anything is answered: an accepted connection is like any other, a refused one finds nobody.
func TestGate(t *testing.T) {
	p := newPair(t, 0)
	next := make(chan func(*Incoming), 1)
	g, err := p.b.OpenGate(7, func(in *Incoming) { (<-next)(in) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.b.Listen(netip.AddrPortFrom(netip.Addr{}, 7)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listening on the port of a gate: %v", err)
	}
	for _, from := range []*Stack{p.a, p.b} { // b reaches itself without leaving
		for _, to := range []netip.Addr{addrB4, addrB6} {
			dst := netip.AddrPortFrom(to, 7)
			next <- func(in *Incoming) {
				if in.Dst != dst {
					t.Errorf("asked about %v, want %v", in.Dst, dst)
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
			next <- (*Incoming).Refuse
			if _, err := from.DialContext(t.Context(), "tcp", dst.String()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%v: refused with %v", dst, err)
			}
		}
	}
	g.Close()
	g.Close()
	if _, err := p.a.DialContext(t.Context(), "tcp", netip.AddrPortFrom(addrB4, 7).String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed gate: %v", err)
	}
	ln, err := p.b.Listen(netip.AddrPortFrom(netip.Addr{}, 7))
	if err != nil {
		t.Fatalf("the port of a closed gate: %v", err)
	}
	ln.Close()
	p.b.Close()
	if _, err := p.b.OpenGate(8, (*Incoming).Refuse); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a gate of a closed stack: %v", err)
	}
}

// Connections to a port that nobody has decided about are bounded, further ones are refused, and other ports have room all
// the while. Close does not wait for those who ask.
func TestGateIsBounded(t *testing.T) {
	p := newPair(t, 0)
	asked := make(chan *Incoming, 2*maxIncoming)
	if _, err := p.b.OpenGate(7, func(in *Incoming) { asked <- in }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dst := netip.AddrPortFrom(addrB4, 7).String()
	const askers = maxAtGate + 50
	ended := make(chan error, askers)
	for range askers {
		go func() {
			_, err := p.a.DialContext(ctx, "tcp", dst)
			ended <- err
		}()
	}
	for range askers - maxAtGate {
		if err := <-ended; !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("beyond what may wait: %v", err)
		}
	}
	waiting := make([]*Incoming, maxAtGate)
	for i := range waiting {
		waiting[i] = <-asked
	}
	if _, err := p.b.OpenGate(8, func(in *Incoming) {
		if c, err := in.Accept(); err == nil {
			c.Close()
		}
	}); err != nil {
		t.Fatal(err)
	}
	c, err := p.a.DialContext(ctx, "tcp", netip.AddrPortFrom(addrB4, 8).String())
	if err != nil {
		t.Fatalf("another port: %v", err)
	}
	c.Close()
	for _, in := range waiting[:10] {
		in.Refuse()
		if err := <-ended; !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("refused: %v", err)
		}
	}
	cancel()
	for range maxAtGate - 10 {
		if err := <-ended; err == nil {
			t.Error("connected")
		}
	}
}

// Close ends a handshake whose other side has gone silent.
func TestCloseDuringHandshake(t *testing.T) {
	p := newPair(t, 0)
	accepted := make(chan error)
	_, err := p.b.OpenGate(7, func(in *Incoming) {
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
			t.Error("accepted without an answer")
		}
	case <-time.After(5 * time.Second):
		t.Error("Accept goes on after Close")
	}
}
