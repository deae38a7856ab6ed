package simnet

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The delay of a datagram is exactly the sum of the delays of the links on its way.
func TestDelay(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		alice := n.NewHost(nil, alice4)
		nat := n.NewNAT(NATConfig{Kind: Easy, Addrs: []netip.Addr{nat4}})
		inner := n.NewHost(nat, lan1)
		alice.SetLink(Link{Delay: time.Millisecond})
		nat.SetLink(Link{Delay: 10 * time.Millisecond})
		inner.SetLink(Link{Delay: 100 * time.Millisecond})
		a, c := listen(t, alice, 7), listen(t, inner, 7)
		start := time.Now()
		observed(t, c, a, at(alice4, 7))
		if got, want := time.Since(start), 2*111*time.Millisecond; got != want {
			t.Errorf("round trip took %v, want %v", got, want)
		}
	})
}

// Each address of a host may have a link of its own.
func TestLinkOfAddress(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		alice, bob := n.NewHost(nil, alice4, alice6), n.NewHost(nil, bob4, bob6)
		a, b := listen(t, alice, 7), listen(t, bob, 7)
		took := func(to netip.Addr) time.Duration {
			start := time.Now()
			send(t, a, at(to, 7), "x")
			receive(t, b, "x")
			return time.Since(start)
		}
		bob.SetLink(Link{Delay: time.Second})
		bob.SetLink(Link{Delay: time.Minute / 2}, bob6)
		if four, six := took(bob4), took(bob6); four != time.Second || six != time.Minute/2 {
			t.Errorf("IPv4 took %v, IPv6 %v", four, six)
		}
		alice.SetLink(Link{Down: true}, alice4)
		send(t, a, at(bob4, 7), "lost")
		silence(t, b)
		took(bob6)
		alice.SetLink(Link{})
		bob.SetLink(Link{})
		if four, six := took(bob4), took(bob6); four != 0 || six != 0 {
			t.Errorf("IPv4 took %v, IPv6 %v", four, six)
		}
		// After Move, the addresses have the link of the host again.
		bob.SetLink(Link{Down: true}, bob4)
		bob.Move(nil, bob4)
		took(bob4)
	})
}

// Datagrams that are sent at the same time stay in order. When a link gets faster, later ones may
// overtake earlier ones.
func TestOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		alice, bob := n.NewHost(nil, alice4), n.NewHost(nil, bob4)
		a, b := listen(t, alice, 7), listen(t, bob, 7)
		for _, delay := range []time.Duration{0, time.Second} {
			bob.SetLink(Link{Delay: delay})
			for i := range 100 {
				send(t, a, at(bob4, 7), fmt.Sprint(i))
			}
			for i := range 100 {
				receive(t, b, fmt.Sprint(i))
			}
		}
		send(t, a, at(bob4, 7), "slow")
		bob.SetLink(Link{Delay: time.Millisecond})
		send(t, a, at(bob4, 7), "fast")
		receive(t, b, "fast")
		receive(t, b, "slow")
	})
}

func TestMTU(t *testing.T) {
	for _, test := range []struct {
		name     string
		mtu      int
		to       netip.Addr
		fits     int
		narrowOf func(alice, bob *Host, l Link)
	}{
		{"default, IPv4", 0, bob4, 1472, func(alice, bob *Host, l Link) { bob.SetLink(l) }},
		{"default, IPv6", 0, bob6, 1452, func(alice, bob *Host, l Link) { bob.SetLink(l) }},
		{"receiver's", 1280, bob6, 1232, func(alice, bob *Host, l Link) { bob.SetLink(l) }},
		{"sender's", 576, bob4, 548, func(alice, bob *Host, l Link) { alice.SetLink(l) }},
		{"large", 70000, bob4, 65507, func(alice, bob *Host, l Link) { alice.SetLink(l); bob.SetLink(l) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, n *Net) {
				alice, bob := n.NewHost(nil, alice4, alice6), n.NewHost(nil, bob4, bob6)
				a, b := listen(t, alice, 7), listen(t, bob, 7)
				test.narrowOf(alice, bob, Link{MTU: test.mtu})
				fits := make([]byte, test.fits)
				if _, err := a.WriteToUDPAddrPort(fits, at(test.to, 7)); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 1<<16)
				b.SetReadDeadline(time.Now().Add(time.Minute))
				if got, _, err := b.ReadFromUDPAddrPort(buf); err != nil || got != test.fits {
					t.Fatalf("got %d bytes, %v, want %d", got, err, test.fits)
				}
				_, err := a.WriteToUDPAddrPort(append(fits, 0), at(test.to, 7))
				if test.fits == maxPayload {
					if err == nil {
						t.Error("sent more than UDP carries")
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				silence(t, b)
				wantStats(t, n, Stats{Sent: 2, Delivered: 1, TooBig: 1})
			})
		})
	}
}

// losses sends to two ports in turn, and returns which datagrams arrive at the first one.
func losses(t *testing.T, seed uint64, rounds int, between func(a *Conn)) (arrived string) {
	inBubble(t, func(t *testing.T, _ *Net) {
		n := New(seed)
		defer n.Close()
		alice, bob := n.NewHost(nil, alice4), n.NewHost(nil, bob4)
		alice.SetLink(Link{Loss: 0.2})
		bob.SetLink(Link{Loss: 0.1})
		a, b := listen(t, alice, 7), listen(t, bob, 7)
		var got strings.Builder
		buf := make([]byte, 10)
		for range rounds {
			send(t, a, at(bob4, 7), "x")
			between(a)
			b.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, _, err := b.ReadFromUDPAddrPort(buf); err == nil {
				got.WriteByte('x')
			} else {
				got.WriteByte('.')
			}
		}
		arrived = got.String()
		stats := n.Stats()
		if stats.Sent != stats.Lost+stats.Delivered+stats.NoSocket {
			t.Errorf("stats do not add up: %+v", stats)
		}
	})
	return arrived
}

func TestLossIsTheSameEveryTime(t *testing.T) {
	quiet := func(*Conn) {}
	first := losses(t, 42, 2000, quiet)
	if again := losses(t, 42, 2000, quiet); again != first {
		t.Error("the same seed loses others")
	}
	busy := losses(t, 42, 2000, func(a *Conn) { send(t, a, at(bob4, 9), "y") })
	if busy != first {
		t.Error("other traffic changes what is lost")
	}
	if other := losses(t, 43, 2000, quiet); other == first {
		t.Error("another seed loses the same")
	}
	// 0.8 * 0.9 of them arrive. 200 are ten standard deviations of the binomial distribution.
	if got := strings.Count(first, "x"); got < 1340 || got > 1540 {
		t.Errorf("%d of 2000 arrive, want about 1440", got)
	}
	if !strings.Contains(first, "..") || !strings.Contains(first, "xxxxx") {
		t.Error("losses follow a pattern")
	}
}

func TestCutAndRestore(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		alice, bob := n.NewHost(nil, alice4), n.NewHost(nil, bob4)
		a, b := listen(t, alice, 7), listen(t, bob, 7)
		stun := listen(t, n.NewHost(nil, nat4), 7)
		bob.SetLink(Link{Delay: time.Second})
		send(t, a, at(bob4, 7), "on the way")
		n.Cut(alice, bob)
		silence(t, b)
		send(t, b, at(alice4, 7), "other direction")
		receive(t, a, "other direction")
		observed(t, b, stun, at(nat4, 7)) // other hosts are not affected
		n.Restore(alice, bob)
		n.Restore(alice, bob)
		send(t, a, at(bob4, 7), "again")
		receive(t, b, "again")

		send(t, a, at(bob4, 7), "on the way")
		bob.SetLink(Link{Down: true})
		receive(t, b, "on the way") // sent before the cut
		send(t, a, at(bob4, 7), "x")
		send(t, b, at(alice4, 7), "y")
		silence(t, a)
		silence(t, b)
		wantStats(t, n, Stats{Sent: 8, Delivered: 5, Down: 3})
	})
}

func TestQueueIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		a, b := listen(t, n.NewHost(nil, alice4), 7), listen(t, n.NewHost(nil, bob4), 7)
		for i := range maxQueue + 10 {
			send(t, a, at(bob4, 7), fmt.Sprint(i))
		}
		for i := range maxQueue { // the oldest datagrams are kept
			receive(t, b, fmt.Sprint(i))
		}
		silence(t, b)
		send(t, a, at(bob4, 7), "room again")
		receive(t, b, "room again")
		wantStats(t, n, Stats{Sent: maxQueue + 11, Delivered: maxQueue + 1, QueueFull: 10})
	})
}

func TestInFlightIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		alice := n.NewHost(nil, alice4)
		a := listen(t, alice, 7)
		alice.SetLink(Link{Delay: time.Hour})
		for range maxInFlight + 5 {
			send(t, a, at(bob4, 7), "")
		}
		wantStats(t, n, Stats{Sent: maxInFlight + 5, QueueFull: 5})
	})
}
