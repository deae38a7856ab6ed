package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// address4 returns the node's own IPv4 address.
func (n *member) address4() netip.Addr { return n.Status().Self.Addresses[0] }

// echoes makes the node echo TCP and UDP on a port.
func (n *member) echoes(port uint16) {
	t := n.mesh.t
	t.Helper()
	ln, err := n.Listen(netip.AddrPortFrom(netip.Addr{}, port))
	if err != nil {
		t.Fatal(err)
	}
	pc, err := n.ListenPacket(netip.AddrPortFrom(netip.Addr{}, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close(); pc.Close() })
	n.mesh.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n.mesh.wg.Go(func() { io.Copy(c, c); c.Close() })
		}
	})
	n.mesh.wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			l, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(buf[:l], from)
		}
	})
}

// asks repeats a datagram until its echo comes, for a limited time.
func asks(pc net.PacketConn, to netip.AddrPort, patience time.Duration) error {
	end := time.Now().Add(patience)
	buf := make([]byte, 1500)
	for {
		if _, err := pc.WriteTo([]byte("question"), net.UDPAddrFromAddrPort(to)); err != nil {
			return err
		}
		pc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, from, err := pc.ReadFrom(buf)
		switch {
		case err == nil && string(buf[:n]) == "question" && from.String() == to.String():
			return nil
		case err == nil:
			return fmt.Errorf("%q from %v", buf[:n], from)
		case time.Now().After(end):
			return err
		}
	}
}

// Where the policy lets nothing in, replies to what a node has sent come in all the same, and
// nothing else does: connections, datagrams from any port, and pings; also for a node that routes.
func TestAnswersComeIn(t *testing.T) {
	n := newNetwork(t)
	behind := func(c *Config) { c.Control.AdvertiseRoutes = []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")} }
	plain, router, b := n.join("plain"), n.join("router", behind), n.join("beta")
	nodes := []*member{plain, router, b}
	for _, m := range nodes {
		eventually(t, m.name+" has joined",
			func() bool { return len(m.Status().Peers) == 2 && m.Status().State == StateRunning })
		m.echoes(7)
	}
	to := netip.AddrPortFrom(b.address4(), 7)
	policy := fmt.Sprintf(`{"acls": [{"action": "accept", "src": ["%v", "%v"], "dst": ["%v:*"]}]}`, plain.address4(),
		router.address4(), b.address4())
	if _, err := n.srv.SetPolicy(t.Context(), []byte(policy)); err != nil {
		t.Fatal(err)
	}
	for _, a := range nodes[:2] {
		t.Run(a.name, func(t *testing.T) {
			eventually(t, "the policy holds", func() bool {
				ms := a.Node.member
				ms.mu.Lock()
				defer ms.mu.Unlock()
				return len(ms.netmap.Filter) == 0
			})
			c, err := a.DialContext(t.Context(), "tcp", to.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := roundTrip(t, c, "over TCP", 5*time.Second); err != nil {
				t.Error(err)
			}
			if _, err := a.plane.stack.Ping(t.Context(), to.Addr()); err != nil {
				t.Errorf("pinging: %v", err)
			}
			var fixed net.PacketConn
			for _, port := range []uint16{0, 5000} {
				pc, err := a.ListenPacket(netip.AddrPortFrom(netip.Addr{}, port))
				if err != nil {
					t.Fatal(err)
				}
				defer pc.Close()
				if err := asks(pc, to, 5*time.Second); err != nil {
					t.Errorf("datagrams from port %d: %v", port, err)
				}
				fixed = pc
			}
			udp, err := a.DialContext(t.Context(), "udp", to.String())
			if err != nil {
				t.Fatal(err)
			}
			defer udp.Close()
			if err := roundTrip(t, udp, "connected", 5*time.Second); err != nil {
				t.Error(err)
			}
			wantNothingElse(t, a, b, udp, fixed)
		})
	}
}

// wantNothingElse checks that nothing from b comes in at a, except replies to udp and fixed, which
// have sent to port 7 of b. fixed is bound to port 5000.
func wantNothingElse(t *testing.T, a, b *member, udp net.Conn, fixed net.PacketConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := b.plane.stack.Ping(ctx, a.address4()); err == nil {
		t.Error("a ping came in")
	}
	if c, err := b.DialContext(ctx, "tcp", netip.AddrPortFrom(a.address4(), 7).String()); err == nil {
		c.Close()
		t.Error("a connection came in")
	}
	// b may reply from port 7, and must not send to the same ports from another one.
	pc, err := b.ListenPacket(netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	for range 3 {
		for _, port := range []int{5000, udp.LocalAddr().(*net.UDPAddr).Port} {
			to := netip.AddrPortFrom(a.address4(), uint16(port))
			pc.WriteTo([]byte("not asked for"), net.UDPAddrFromAddrPort(to))
		}
	}
	readFixed := func(p []byte) (int, error) { n, _, err := fixed.ReadFrom(p); return n, err }
	for _, read := range []func([]byte) (int, error){udp.Read, readFixed} {
		udp.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		fixed.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		buf := make([]byte, 100)
		if n, err := read(buf); err == nil && string(buf[:n]) != "question" {
			t.Errorf("%q came in", buf[:n])
		}
	}
}
