package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"ginnel/key"
)

// countingDial counts the sockets that a router opens on the host's network.
type countingDial struct {
	*behind
	udp atomic.Int32
}

func (d *countingDial) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if network == "udp" {
		d.udp.Add(1)
	}
	return d.behind.dial(ctx, network, addr)
}

// routedNetwork is a router with room for few flows and connections, and two peers that use it.
func routedNetwork(t *testing.T, room int) (router, greedy, modest *member, dials *countingDial) {
	t.Helper()
	n := newNetwork(t)
	route := netip.MustParsePrefix("192.0.2.0/24")
	dials = &countingDial{behind: newBehind(t)}
	router = n.join("router", func(c *Config) {
		c.Control.AdvertiseRoutes, c.DialHost = []netip.Prefix{route},
			dials.dial
	})
	accept := func(c *Config) { c.Control.AcceptRoutes = true }
	greedy, modest = n.join("greedy", accept), n.join("modest", accept)
	n.admin("POST", "/api/v1/nodes/"+router.id()+"/routes", `{"approved": ["192.0.2.0/24"]}`)
	host := netip.MustParseAddr("192.0.2.1")
	eventually(t, "both have the route", func() bool {
		return greedy.plane.routes.Load().peer(host) != nil && modest.plane.routes.Load().peer(host) != nil
	})
	router.ingress.router.flows.mu.Lock()
	router.ingress.router.flows.max = room
	router.ingress.router.flows.mu.Unlock()
	router.ingress.router.conns.mu.Lock()
	router.ingress.router.conns.max = room
	router.ingress.router.conns.mu.Unlock()
	return router, greedy, modest, dials
}

func (m *member) mustDial(network, addr string) net.Conn {
	m.mesh.t.Helper()
	c, err := m.DialContext(m.mesh.t.Context(), network, addr)
	if err != nil {
		m.mesh.t.Fatalf("%s dialling %s: %v", m.name, addr, err)
	}
	m.mesh.t.Cleanup(func() { c.Close() })
	return c
}

// A peer that opens as many UDP flows as it can leaves room for another peer, whose flow stays and
// which can open more.
func TestRoutedFlowsAreShared(t *testing.T) {
	const room = 16
	router, greedy, modest, dials := routedNetwork(t, room)
	pass := func(who string, c net.Conn) {
		t.Helper()
		if err := roundTrip(t, c, "datagram", 5*time.Second); err != nil {
			t.Fatalf("%s: %v", who, err)
		}
	}
	before := modest.mustDial("udp", "192.0.2.1:7")
	pass("before", before)
	for i := range 3 * room {
		pass(fmt.Sprint("flow ", i), greedy.mustDial("udp", "192.0.2.1:7"))
	}
	opened := dials.udp.Load()
	pass("before, again", before)
	if n := dials.udp.Load() - opened; n != 0 {
		t.Error("the flow of the modest peer had been ended")
	}
	for range 3 {
		pass("another of the modest peer", modest.mustDial("udp", "192.0.2.1:7"))
	}
	fs := &router.ingress.router.flows
	fs.mu.Lock()
	held, own := fs.held.Len(), fs.held.Count(router.plane.peerOf(modest.address4()))
	fs.mu.Unlock()
	if held != room || own != 4 {
		t.Errorf("%d flows, %d of the modest peer, want %d and 4", held, own, room)
	}
}

// If one peer has all connections through a router, its oldest ends for a connection of another
// peer, but not for one more of its own.
func TestRoutedConnsAreShared(t *testing.T) {
	const room = 8
	_, greedy, modest, _ := routedNetwork(t, room)
	var held []net.Conn
	for range room {
		c := greedy.mustDial("tcp", "192.0.2.1:80")
		held = append(held, c)
		time.Sleep(5 * time.Millisecond) // their order at the router is that of the dials
	}
	if c, err := greedy.DialContext(t.Context(), "tcp", "192.0.2.1:80"); err == nil {
		c.Close()
		t.Error("the greedy peer got one more")
	}
	if got, err := modest.get("http://192.0.2.1/"); got != "behind" || err != nil {
		t.Errorf("the modest peer: %q, %v", got, err)
	}
	held[0].SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := held[0].Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the oldest connection of the greedy peer: %v, want its end", err)
	}
	io.WriteString(held[1], "GET / HTTP/1.0\r\n\r\n")
	held[1].SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := held[1].Read(make([]byte, 1)); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// Of the flows of the peer that has most, the one that was silent for longest ends, even if another
// is older.
func TestIdlestFlowGivesWay(t *testing.T) {
	fs := routedFlows{max: 3}
	greedy, modest := netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")
	flows := make([]*routedFlow, 4)
	for i := range flows {
		flows[i] = newRoutedFlow(nil)
	}
	for i, f := range flows[:3] {
		f.heard.Store(int64([]int{30, 10, 20}[i]))
		if evicted := fs.add(greedy, f); evicted != nil {
			t.Errorf("flow %d: one ended with room left", i)
		}
	}
	if evicted := fs.add(modest, flows[3]); evicted != flows[1] {
		t.Errorf("ended flow %v, want the idlest", evicted)
	}
}

// A flood of packets from one unknown node does not displace the packet of another.
func TestStrangersAreShared(t *testing.T) {
	var s earlyPackets
	flood, honest := key.NewNodePrivate().Public(), key.NewNodePrivate().Public()
	now := time.Now()
	s.keep(now, 1, honest, [][]byte{[]byte("initiation")})
	for range 10 * earlyMax {
		s.keep(now, 1, flood, [][]byte{make([]byte, 100)})
	}
	if len(s.packets) != earlyMax || s.held.Len() != earlyMax {
		t.Errorf("%d packets kept, %d counted, want %d", len(s.packets), s.held.Len(), earlyMax)
	}
	got := s.take(now, func(k key.NodePublic) bool { return k == honest })
	if len(got) != 1 || string(got[0].b) != "initiation" {
		t.Errorf("got %d packets of the new node, want 1", len(got))
	}
	s.take(now.Add(2*earlyTime), func(key.NodePublic) bool { return false })
	if len(s.packets) != 0 || s.held.Len() != 0 {
		t.Errorf("%d packets left, %d counted", len(s.packets), s.held.Len())
	}
}
