package simnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Addresses of hosts on the internet, of NATs, and of hosts behind NATs.
var (
	alice4 = netip.MustParseAddr("192.0.2.1")
	alice6 = netip.MustParseAddr("2001:db8::1")
	bob4   = netip.MustParseAddr("198.51.100.2")
	bob6   = netip.MustParseAddr("2001:db8::2")
	nat4   = netip.MustParseAddr("203.0.113.1")
	nat4b  = netip.MustParseAddr("203.0.113.2")
	lan1   = netip.MustParseAddr("192.168.1.10")
	lan2   = netip.MustParseAddr("192.168.1.11")
)

// inBubble runs test in a bubble, with a new Net.
func inBubble(t *testing.T, test func(t *testing.T, n *Net)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		test(t, n)
	})
}

func listen(t *testing.T, h *Host, port uint16) *Conn {
	t.Helper()
	c, err := h.ListenUDP(port)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func at(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }

func send(t *testing.T, c *Conn, to netip.AddrPort, text string) {
	t.Helper()
	if n, err := c.WriteToUDPAddrPort([]byte(text), to); err != nil || n != len(text) {
		t.Fatalf("sending %q to %v: %d, %v", text, to, n, err)
	}
}

// receive waits for the datagram want, and returns its source.
func receive(t *testing.T, c *Conn, want string) netip.AddrPort {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	defer c.SetReadDeadline(time.Time{})
	b := make([]byte, 2000)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != want {
		t.Fatalf("got %q, %v, want %q", b[:n], err, want)
	}
	return from
}

// silence fails the test if a datagram arrives within a minute.
func silence(t *testing.T, c *Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	defer c.SetReadDeadline(time.Time{})
	b := make([]byte, 2000)
	if n, from, err := c.ReadFromUDPAddrPort(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %q from %v, %v, want nothing", b[:n], from, err)
	}
}

// observed returns the source address of c that observer sees, as a STUN server would.
func observed(t *testing.T, c, observer *Conn, observerAt netip.AddrPort) netip.AddrPort {
	t.Helper()
	send(t, c, observerAt, "who am I?")
	seen := receive(t, observer, "who am I?")
	send(t, observer, seen, seen.String())
	if from := receive(t, c, seen.String()); from != observerAt {
		t.Fatalf("answer from %v, want %v", from, observerAt)
	}
	return seen
}

func wantStats(t *testing.T, n *Net, want Stats) {
	t.Helper()
	if got := n.Stats(); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
}

func TestHosts(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		alice, bob := n.NewHost(nil, alice4, alice6), n.NewHost(nil, bob4, bob6)
		a, a2, b := listen(t, alice, 1000), listen(t, alice, 0), listen(t, bob, 1000)

		send(t, a, at(bob4, 1000), "four")
		if from := receive(t, b, "four"); from != at(alice4, 1000) {
			t.Errorf("from %v", from)
		}
		send(t, a2, at(bob6, 1000), "six")
		if from := receive(t, b, "six"); from.Addr() != alice6 || from.Port() < firstPort {
			t.Errorf("from %v", from)
		}
		send(t, b, netip.AddrPortFrom(netip.AddrFrom16(alice4.As16()), 1000), "mapped")
		if from := receive(t, a, "mapped"); from != at(bob4, 1000) {
			t.Errorf("from %v", from)
		}
		// A datagram of a host to itself has its destination address as its source.
		for _, to := range []netip.Addr{alice4, alice6, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
			send(t, a2, at(to, 1000), "self")
			if from := receive(t, a, "self"); from.Addr() != to {
				t.Errorf("to %v: from %v", to, from)
			}
		}
		send(t, a, at(bob4, 1001), "nobody listens")
		send(t, a, at(nat4, 1000), "nobody there")
		silence(t, b)
		wantStats(t, n, Stats{Sent: 9, Delivered: 7, NoSocket: 1, NoRoute: 1})

		if got := alice.Addrs(); !slices.Equal(got, []netip.Addr{alice4, alice6}) {
			t.Errorf("addresses %v", got)
		}
	})
}

// received returns the sources of the datagrams that have arrived, and whether one of them was
// text.
func received(t *testing.T, c *Conn, text string) (from []netip.AddrPort, found bool) {
	t.Helper()
	b := make([]byte, 2000)
	for {
		c.SetReadDeadline(time.Now().Add(time.Second))
		n, source, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return from, found
		}
		from, found = append(from, source), found || string(b[:n]) == text
	}
}

// Both sides learn their public addresses, exchange them, send to each other at the same time, and
// answer. Without port prediction this fails exactly if one NAT is hard and the other translates
// too.
func TestHolePunching(t *testing.T) {
	for _, test := range []struct {
		a, b NATKind
		want bool
	}{
		{None, None, true}, {None, Easy, true}, {None, Hard, true},
		{Easy, None, true}, {Easy, Easy, true}, {Easy, Hard, false},
		{Hard, None, true}, {Hard, Easy, false}, {Hard, Hard, false},
	} {
		t.Run(fmt.Sprintf("%v to %v", test.a, test.b), func(t *testing.T) {
			inBubble(t, func(t *testing.T, n *Net) {
				stun := listen(t, n.NewHost(nil, alice4), 3478)
				home := func(kind NATKind, public, inner netip.Addr) (*Conn, netip.AddrPort) {
					cfg := NATConfig{Kind: kind, Addrs: []netip.Addr{public}}
					if kind == None {
						inner = public.Next().Next()
					}
					c := listen(t, n.NewHost(n.NewNAT(cfg), inner), 41641)
					return c, observed(t, c, stun, at(alice4, 3478))
				}
				a, aSeen := home(test.a, nat4, lan1)
				b, bSeen := home(test.b, netip.MustParseAddr("198.18.0.1"), lan1)
				for range 3 {
					send(t, a, bSeen, "hello")
					send(t, b, aSeen, "hello")
					time.Sleep(time.Second)
				}
				atA, _ := received(t, a, "hello")
				atB, _ := received(t, b, "hello")
				for _, from := range atA {
					send(t, a, from, "answer")
				}
				for _, from := range atB {
					send(t, b, from, "answer")
				}
				_, aAnswered := received(t, a, "answer")
				_, bAnswered := received(t, b, "answer")
				if got := aAnswered || bAnswered; got != test.want {
					t.Errorf("got %v, want %v: hellos came from %v and %v", got, test.want, atA, atB)
				}
			})
		})
	}
}

func TestEasyNAT(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		alice := n.NewHost(nil, alice4)
		stun, other := listen(t, alice, 3478), listen(t, alice, 3479)
		bob := listen(t, n.NewHost(nil, bob4), 3478)
		nat := n.NewNAT(NATConfig{Kind: Easy, Addrs: []netip.Addr{nat4}})
		inner := n.NewHost(nat, lan1)
		c, c2 := listen(t, inner, 41641), listen(t, inner, 41642) // get the public ports 20000 and 20001

		seen := observed(t, c, stun, at(alice4, 3478))
		if seen.Addr() != nat4 || seen.Port() == 41641 {
			t.Errorf("seen as %v", seen)
		}
		// RFC 4787, section 4.1: "The NAT reuses the port mapping for subsequent packets sent from the
		// same internal IP address and port [...] to any external IP address and port."
		if again := observed(t, c, bob, at(bob4, 3478)); again != seen {
			t.Errorf("seen as %v and %v", seen, again)
		}
		if third := observed(t, listen(t, inner, 20002), stun, at(alice4, 3478)); third.Port() == 20002 {
			t.Errorf("the inner port is seen as it is: %v", third)
		}
		if second := observed(t, c2, stun, at(alice4, 3478)); second == seen || second.Addr() != nat4 {
			t.Errorf("two sockets are seen as %v and %v", seen, second)
		}
		// RFC 4787, section 5: "Address and Port-Dependent Filtering".
		send(t, other, seen, "from another port")
		silence(t, c)
		send(t, c, at(alice4, 3479), "let in")
		receive(t, other, "let in")
		send(t, other, seen, "now")
		if from := receive(t, c, "now"); from != at(alice4, 3479) {
			t.Errorf("from %v", from)
		}
		send(t, stun, at(nat4, 41641), "to the inner port")
		send(t, stun, at(lan1, 41641), "to the inner address")
		silence(t, c)
		wantStats(t, n, Stats{Sent: 13, Delivered: 10, Filtered: 2, NoRoute: 1})
	})
}

func TestHardNAT(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		alice := n.NewHost(nil, alice4)
		stun, other := listen(t, alice, 3478), listen(t, alice, 3479)
		c := listen(t, n.NewHost(n.NewNAT(NATConfig{Kind: Hard, Addrs: []netip.Addr{nat4}}), lan1), 41641)

		// RFC 4787, section 4.1: "The NAT reuses the port mapping for subsequent packets sent from the
		// same internal IP address and port to the same external IP address and port while the mapping is
		// still active."
		first, second := observed(t, c, stun, at(alice4, 3478)), observed(t, c, other, at(alice4, 3479))
		if first == second || first.Addr() != nat4 || second.Addr() != nat4 {
			t.Errorf("seen as %v and %v", first, second)
		}
		if again := observed(t, c, stun, at(alice4, 3478)); again != first {
			t.Errorf("seen as %v, then as %v", first, again)
		}
		send(t, other, first, "to the port of another")
		silence(t, c)
	})
}

func TestBlockedUDP(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		out := listen(t, n.NewHost(nil, alice4), 3478)
		nat := n.NewNAT(NATConfig{Kind: Blocked, Addrs: []netip.Addr{nat4}})
		c, d := listen(t, n.NewHost(nat, lan1), 1), listen(t, n.NewHost(nat, lan2), 2)
		send(t, c, at(alice4, 3478), "out")
		silence(t, out)
		send(t, out, at(nat4, 1), "in")
		silence(t, c)
		wantStats(t, n, Stats{Sent: 2, Filtered: 2})
		send(t, c, at(lan2, 2), "within")
		if from := receive(t, d, "within"); from != at(lan1, 1) {
			t.Errorf("from %v", from)
		}
	})
}

// A NAT without an IPv6 address routes IPv6 without translation and without a filter, as a usual
// home router does.
func TestRoutedFamilies(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		out := listen(t, n.NewHost(nil, alice4, alice6), 7)
		router := n.NewNAT(NATConfig{})
		c := listen(t, n.NewHost(router, bob4), 7)
		send(t, out, at(bob4, 7), "in")
		if from := receive(t, c, "in"); from != at(alice4, 7) {
			t.Errorf("from %v", from)
		}
		home := n.NewNAT(NATConfig{Kind: Hard, Addrs: []netip.Addr{nat4}})
		host := n.NewHost(home, lan1, bob6)
		d := listen(t, host, 7)
		send(t, out, at(bob6, 7), "in")
		receive(t, d, "in")
		send(t, d, at(alice6, 7), "out")
		if from := receive(t, out, "out"); from != at(bob6, 7) {
			t.Errorf("IPv6 from %v", from)
		}
		send(t, d, at(alice4, 7), "out")
		if from := receive(t, out, "out"); from.Addr() != nat4 {
			t.Errorf("IPv4 from %v", from)
		}
		// When the host moves away, its routed address is gone.
		host.Move(nil)
		send(t, out, at(bob6, 7), "gone")
		silence(t, d)
		wantStats(t, n, Stats{Sent: 5, Delivered: 4, NoRoute: 1})
	})
}

// Two private networks may use the same addresses. A private address means the host in the same
// network.
func TestPrivateAddresses(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		nat := n.NewNAT(NATConfig{Kind: Easy, Addrs: []netip.Addr{nat4}})
		a, b := listen(t, n.NewHost(nat, lan1), 7), listen(t, n.NewHost(nat, lan2), 7)
		other := n.NewNAT(NATConfig{Kind: Easy, Addrs: []netip.Addr{nat4b}})
		x, y := listen(t, n.NewHost(other, lan1), 7), listen(t, n.NewHost(other, lan2), 7)
		nat.SetLink(Link{Down: true}) // not used for traffic inside
		send(t, a, at(lan2, 7), "hi")
		if from := receive(t, b, "hi"); from != at(lan1, 7) {
			t.Errorf("from %v", from)
		}
		silence(t, y)
		send(t, x, at(lan2, 7), "ho")
		receive(t, y, "ho")
	})
}

func TestHairpin(t *testing.T) {
	for _, hairpin := range []bool{false, true} {
		inBubble(t, func(t *testing.T, n *Net) {
			stun := listen(t, n.NewHost(nil, alice4), 3478)
			nat := n.NewNAT(NATConfig{Kind: Easy, Addrs: []netip.Addr{nat4}, Hairpin: hairpin})
			a, b := listen(t, n.NewHost(nat, lan1), 7), listen(t, n.NewHost(nat, lan2), 7)
			aSeen, bSeen := observed(t, a, stun, at(alice4, 3478)), observed(t, b, stun, at(alice4, 3478))
			send(t, a, bSeen, "not let in yet")
			silence(t, b)
			send(t, b, aSeen, "hairpin")
			if !hairpin {
				silence(t, a)
				return
			}
			// RFC 4787, section 6: "External source IP address and port".
			if from := receive(t, a, "hairpin"); from != bSeen {
				t.Errorf("from %v, want %v", from, bSeen)
			}
		})
	}
}

// A home NAT may be behind a carrier-grade NAT.
func TestNATBehindNAT(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		stun := listen(t, n.NewHost(nil, alice4), 3478)
		provider := n.NewNAT(NATConfig{Kind: Hard, Addrs: []netip.Addr{nat4}})
		home := n.NewNAT(NATConfig{Kind: Easy, Addrs: []netip.Addr{netip.MustParseAddr("100.64.0.1")}, Behind: provider})
		router := n.NewNAT(NATConfig{Behind: provider})
		neighbour := listen(t, n.NewHost(router, netip.MustParseAddr("100.64.0.2")), 7)
		c := listen(t, n.NewHost(home, lan1), 7)
		if seen := observed(t, c, stun, at(alice4, 3478)); seen.Addr() != nat4 {
			t.Errorf("seen as %v", seen)
		}
		seen := observed(t, c, neighbour, netip.MustParseAddrPort("100.64.0.2:7"))
		if seen.Addr() != netip.MustParseAddr("100.64.0.1") {
			t.Errorf("the neighbour sees %v", seen)
		}
	})
}

func TestRebind(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		stun := listen(t, n.NewHost(nil, alice4), 3478)
		nat := n.NewNAT(NATConfig{Kind: Easy, Addrs: []netip.Addr{nat4}})
		c := listen(t, n.NewHost(nat, lan1), 7)
		before := observed(t, c, stun, at(alice4, 3478))
		nat.Rebind()
		send(t, stun, before, "to the old port")
		silence(t, c)
		after := observed(t, c, stun, at(alice4, 3478))
		if after == before {
			t.Errorf("seen as %v before and after", before)
		}
		send(t, stun, before, "to the old port")
		silence(t, c)
	})
}

func TestMappingTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		stun := listen(t, n.NewHost(nil, alice4), 3478)
		nat := n.NewNAT(NATConfig{Kind: Easy, Addrs: []netip.Addr{nat4}, Timeout: 30 * time.Second})
		c := listen(t, n.NewHost(nat, lan1), 7)
		seen := observed(t, c, stun, at(alice4, 3478))
		for range 5 { // datagrams from inside keep the mapping open
			time.Sleep(29 * time.Second)
			if again := observed(t, c, stun, at(alice4, 3478)); again != seen {
				t.Fatalf("seen as %v, then as %v", seen, again)
			}
		}
		// Datagrams from outside do not.
		time.Sleep(29 * time.Second)
		send(t, stun, seen, "in time")
		receive(t, c, "in time")
		time.Sleep(time.Second)
		send(t, stun, seen, "too late")
		silence(t, c)
		if again := observed(t, c, stun, at(alice4, 3478)); again == seen {
			t.Errorf("seen as %v again after the mapping has ended", seen)
		}
	})
}

func TestRoaming(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		alice, bob := n.NewHost(nil, alice4), n.NewHost(nil, bob4, bob6)
		a, b := listen(t, alice, 7), listen(t, bob, 7)
		bob.SetLink(Link{Delay: time.Second})
		send(t, b, at(alice4, 7), "here")
		receive(t, a, "here")
		send(t, a, at(bob4, 7), "on the way while bob leaves")
		home := n.NewNAT(NATConfig{Kind: Easy, Addrs: []netip.Addr{nat4}})
		bob.Move(home, lan1)
		silence(t, b)

		start := time.Now()
		send(t, b, at(alice4, 7), "there")
		if from := receive(t, a, "there"); from.Addr() != nat4 || time.Since(start) != time.Second {
			t.Errorf("from %v after %v", from, time.Since(start))
		}
		if _, err := b.WriteToUDPAddrPort([]byte("x"), at(alice6, 7)); err == nil {
			t.Error("sent to IPv6 without an IPv6 address")
		}
		seen := receivedFrom(t, a, b)
		bob.Move(nil) // without addresses
		send(t, a, seen, "the NAT is still there, bob is not")
		if _, err := b.WriteToUDPAddrPort([]byte("x"), at(alice4, 7)); err == nil {
			t.Error("sent without an address")
		}
		if len(bob.Addrs()) != 0 {
			t.Errorf("addresses %v", bob.Addrs())
		}
		bob.Move(nil, bob4)
		send(t, b, at(alice4, 7), "back")
		if from := receive(t, a, "back"); from != at(bob4, 7) {
			t.Errorf("from %v", from)
		}
		wantStats(t, n, Stats{Sent: 6, Delivered: 4, NoRoute: 2})
	})
}

// receivedFrom returns the address at which a sees b.
func receivedFrom(t *testing.T, a, b *Conn) netip.AddrPort {
	t.Helper()
	send(t, b, at(alice4, 7), "who am I?")
	return receive(t, a, "who am I?")
}

func TestTopologyMistakes(t *testing.T) {
	n := New(1)
	n.NewHost(nil, alice4)
	nat := n.NewNAT(NATConfig{Kind: Easy, Addrs: []netip.Addr{nat4}})
	for name, mistake := range map[string]func(){
		"address in use":         func() { n.NewHost(nil, alice4) },
		"address of a NAT":       func() { n.NewHost(nil, nat4) },
		"NAT without an address": func() { n.NewNAT(NATConfig{Kind: Hard}) },
		"no address":             func() { n.NewHost(nil, netip.Addr{}) },
		"mapped address":         func() { n.NewHost(nil, netip.AddrFrom16(bob4.As16())) },
		"routed address in use":  func() { n.NewHost(n.NewNAT(NATConfig{}), alice4) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			mistake()
		}()
	}
	n.NewHost(nat, alice4) // allowed, because the NAT translates it
}
