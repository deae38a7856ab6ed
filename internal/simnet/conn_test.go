package simnet

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestListenUDP(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		h := n.NewHost(nil, alice4)
		c := listen(t, h, 7)
		if _, err := h.ListenUDP(7); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("port in use: got %v", err)
		}
		c.Close()
		listen(t, h, 7)
		for range lastPort - firstPort + 1 {
			listen(t, h, 0)
		}
		if _, err := h.ListenUDP(0); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("no port left: got %v", err)
		}
		n.Close()
		if _, err := h.ListenUDP(8); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed net: got %v", err)
		}
	})
}

func TestPacketConn(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		a, b := listen(t, n.NewHost(nil, alice4), 7), listen(t, n.NewHost(nil, bob4), 9)
		if got := a.LocalAddr().String(); got != "[::]:7" {
			t.Errorf("local address %s", got)
		}
		payload := []byte("hello")
		if n, err := a.WriteTo(payload, &net.UDPAddr{IP: bob4.AsSlice(), Port: 9}); n != 5 || err != nil {
			t.Fatalf("WriteTo: %d, %v", n, err)
		}
		copy(payload, "?????") // the caller may reuse its buffer
		buf := make([]byte, 3)
		got, from, err := b.ReadFrom(buf)
		if err != nil || string(buf[:got]) != "hel" || from.String() != "192.0.2.1:7" || from.Network() != "udp" {
			t.Errorf("got %q from %v, %v", buf[:got], from, err)
		}
		silence(t, b) // the rest of the truncated datagram is lost
		send(t, a, at(bob4, 9), "")
		receive(t, b, "")

		for name, test := range map[string]struct {
			to   net.Addr
			size int
			want error
		}{
			"another kind of address": {&net.TCPAddr{IP: bob4.AsSlice(), Port: 9}, 1, nil},
			"no port":                 {&net.UDPAddr{IP: bob4.AsSlice()}, 1, syscall.EINVAL},
			"no address":              {&net.UDPAddr{Port: 9}, 1, syscall.EINVAL},
			"unspecified":             {&net.UDPAddr{IP: net.IPv4zero, Port: 9}, 1, syscall.EINVAL},
			"no such family":          {&net.UDPAddr{IP: bob6.AsSlice(), Port: 9}, 1, syscall.ENETUNREACH},
			"too large":               {&net.UDPAddr{IP: bob4.AsSlice(), Port: 9}, maxPayload + 1, syscall.EMSGSIZE},
		} {
			n, err := a.WriteTo(make([]byte, test.size), test.to)
			if n != 0 || err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%s: got %d, %v", name, n, err)
			}
		}
	})
}

func TestDeadlines(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		c := listen(t, n.NewHost(nil, alice4), 7)
		buf := make([]byte, 10)
		timesOut := func(want time.Duration) {
			t.Helper()
			start := time.Now()
			_, _, err := c.ReadFromUDPAddrPort(buf)
			var timeout net.Error
			isTimeout := errors.Is(err, os.ErrDeadlineExceeded) && errors.As(err, &timeout) && timeout.Timeout()
			if !isTimeout || time.Since(start) != want {
				t.Errorf("got %v after %v, want a timeout after %v", err, time.Since(start), want)
			}
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		timesOut(time.Second)
		timesOut(0)
		send(t, c, at(alice4, 7), "queued")
		timesOut(0) // after the deadline reads fail even if datagrams are queued
		c.SetDeadline(time.Time{})
		receive(t, c, "queued")

		// A new deadline applies to a read that already waits.
		c.SetReadDeadline(time.Now().Add(time.Hour))
		time.AfterFunc(time.Second, func() { c.SetReadDeadline(time.Now().Add(2 * time.Second)) })
		timesOut(3 * time.Second)
		c.SetReadDeadline(time.Now().Add(time.Second))
		time.AfterFunc(time.Second/2, func() { c.SetReadDeadline(time.Now().Add(-1)) })
		timesOut(time.Second / 2)

		c.SetWriteDeadline(time.Now())
		if _, err := c.WriteToUDPAddrPort(buf, at(alice4, 7)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write after its deadline: %v", err)
		}
		c.SetDeadline(time.Now().Add(time.Second))
		send(t, c, at(alice4, 7), "x")
	})
}

func TestCloseUnblocks(t *testing.T) {
	for name, end := range map[string]func(*Net, *Conn){
		"conn":  func(_ *Net, c *Conn) { c.Close() },
		"net":   func(n *Net, _ *Conn) { n.Close() },
		"both":  func(n *Net, c *Conn) { c.Close(); n.Close() },
		"twice": func(n *Net, c *Conn) { n.Close(); c.Close(); c.Close(); n.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, n *Net) {
				c := listen(t, n.NewHost(nil, alice4), 7)
				c.SetReadDeadline(time.Now().Add(time.Hour))
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						if _, _, err := c.ReadFromUDPAddrPort(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
							t.Errorf("waiting read: %v", err)
						}
					})
				}
				synctest.Wait()
				end(n, c)
				wg.Wait()
				_, _, readErr := c.ReadFrom(make([]byte, 10))
				_, writeErr := c.WriteToUDPAddrPort([]byte("x"), at(alice4, 7))
				for _, err := range []error{readErr, writeErr, c.SetReadDeadline(time.Now()), c.SetDeadline(time.Time{})} {
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("after Close: %v", err)
					}
				}
			})
		})
	}
}

// Close with datagrams on their way leaves no timer running.
func TestCloseInFlight(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		alice := n.NewHost(nil, alice4)
		alice.SetLink(Link{Delay: time.Hour})
		a := listen(t, alice, 7)
		send(t, a, at(bob4, 7), "x")
		start := time.Now()
		n.Close()
		if time.Since(start) != 0 {
			t.Errorf("Close took %v", time.Since(start))
		}
		time.Sleep(2 * time.Hour)
		wantStats(t, n, Stats{Sent: 1})
	})
}

// Many senders, readers and changes of the topology at once have no data race, and every datagram
// is counted.
func TestConcurrency(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		nat := n.NewNAT(NATConfig{Kind: Easy, Addrs: []netip.Addr{nat4}})
		alice, inner := n.NewHost(nil, alice4), n.NewHost(nat, lan1)
		inner.SetLink(Link{Delay: time.Millisecond, Loss: 0.1})
		a := listen(t, alice, 7)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				buf := make([]byte, 10)
				for {
					got, from, err := a.ReadFromUDPAddrPort(buf)
					if err != nil {
						return
					}
					a.WriteToUDPAddrPort(buf[:got], from)
				}
			})
		}
		var senders sync.WaitGroup
		for range 4 {
			c := listen(t, inner, 0)
			wg.Go(func() {
				for {
					if _, _, err := c.ReadFromUDPAddrPort(make([]byte, 10)); err != nil {
						return
					}
				}
			})
			senders.Go(func() {
				for range 200 {
					c.WriteToUDPAddrPort([]byte("x"), at(alice4, 7))
					time.Sleep(time.Millisecond)
				}
			})
		}
		senders.Go(func() {
			for i := range 20 {
				nat.Rebind()
				nat.SetLink(Link{Delay: time.Duration(i) * time.Millisecond})
				n.Cut(inner, alice)
				time.Sleep(5 * time.Millisecond)
				n.Restore(inner, alice)
				time.Sleep(5 * time.Millisecond)
			}
		})
		senders.Wait()
		time.Sleep(time.Minute)
		s := n.Stats()
		if s.Sent < 800 || s.Lost == 0 || s.Down == 0 || s.Filtered == 0 ||
			s.Sent != s.Delivered+s.Lost+s.Down+s.TooBig+s.Filtered+s.NoRoute+s.NoSocket+s.QueueFull {
			t.Errorf("stats do not add up: %+v", s)
		}
		n.Close()
		wg.Wait()
	})
}

// Outside of a bubble a Net runs in real time.
func TestRealTime(t *testing.T) {
	n := New(1)
	defer n.Close()
	alice, bob := n.NewHost(nil, alice4), n.NewHost(nil, bob4)
	alice.SetLink(Link{Delay: time.Millisecond})
	a, b := listen(t, alice, 7), listen(t, bob, 7)
	start := time.Now()
	observed(t, a, b, at(bob4, 7))
	if took := time.Since(start); took < 2*time.Millisecond {
		t.Errorf("round trip took %v", took)
	}
	send(t, a, at(bob4, 7), "in the air")
}
