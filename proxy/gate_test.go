package proxy

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

const testPatience = time.Second

// gateTest drives a gate by a clock of its own.
type gateTest struct {
	t *testing.T
	*gate
	now time.Time
}

func newGateTest(t *testing.T, max int) *gateTest {
	g := &gateTest{t, new(gate), time.Unix(1000, 0)}
	g.init(max, usualPatience*testPatience)
	return g
}

// newcomer makes a connection whose client has said nothing, and has it enter.
func (g *gateTest) newcomer() *conn { return g.newcomerFrom("127.0.0.1") }

func (g *gateTest) newcomerFrom(addr string) *conn {
	client, server := net.Pipe()
	g.t.Cleanup(func() { client.Close(); server.Close() })
	c := &conn{Conn: connFrom{server, netip.MustParseAddr(addr)}}
	g.enter(c, g.now)
	return c
}

// connFrom is a connection from an address.
type connFrom struct {
	net.Conn
	addr netip.Addr
}

// RemoteAddr implements net.Conn.
func (c connFrom) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.addr, 1))
}

func (g *gateTest) want(displaced *conn, wait time.Duration) {
	g.t.Helper()
	if gotConn, gotWait := g.relieve(g.now); gotConn != displaced || gotWait != wait {
		g.t.Errorf("relieve returned %p and %v, want %p and %v", gotConn, gotWait, displaced, wait)
	}
}

func (g *gateTest) pass(d time.Duration) { g.now = g.now.Add(d) }

// A full gate waits for the clients in it before it evicts the one that has been silent for
// longest.
func TestGateWaitsBeforeItEvicts(t *testing.T) {
	g := newGateTest(t, 2)
	first := g.newcomer()
	g.pass(testPatience / 4)
	second := g.newcomer()
	g.want(nil, 0)
	g.newcomer()
	g.want(nil, testPatience*3/4)
	g.pass(testPatience / 2)
	g.renew(first, g.now)
	g.want(nil, testPatience/2) // for the second
	g.pass(testPatience / 2)
	g.want(second, 0)
	g.want(nil, 0)
}

// Whoever is through makes room.
func TestGateMakesRoomForWhoeverWaits(t *testing.T) {
	g := newGateTest(t, 1)
	first := g.newcomer()
	g.newcomer()
	g.want(nil, testPatience)
	g.succeed(first, g.now)
	select {
	case <-g.roomc:
	default:
		t.Error("nobody is told of the room")
	}
	g.want(nil, 0)
	select {
	case <-g.roomc: // for another accept loop
	default:
		t.Error("those who find room do not pass on the news")
	}
}

// Patience falls with each eviction and follows the handshakes that end well.
func TestGatePatience(t *testing.T) {
	g := newGateTest(t, 1)
	evict := func(patience time.Duration) {
		t.Helper()
		g.newcomer()
		g.want(nil, patience)
		g.pass(patience)
		if c, _ := g.relieve(g.now); c == nil {
			t.Fatal("nobody was evicted")
		}
		g.renew(g.silentLocked(), g.now)
	}
	succeed := func(took time.Duration) {
		t.Helper()
		c := g.newcomer()
		g.pass(took)
		g.succeed(c, g.now)
		g.renew(g.silentLocked(), g.now)
	}
	g.newcomer()
	evict(testPatience)
	evict(testPatience / impatience)
	succeed(0)
	evict(testPatience / impatience / impatience * 2)
	for range 10 {
		succeed(0)
	}
	evict(testPatience)
	for range 10 {
		succeed(testPatience / 2)
	}
	evict(slowest * testPatience / 2)
	for range 10 {
		succeed(100 * testPatience)
	}
	evict(usualPatience * testPatience)
	for range 20 {
		g.newcomer()
		g.pass(usualPatience * testPatience)
		g.relieve(g.now)
		g.renew(g.silentLocked(), g.now)
	}
	evict(minPatience)
}

// Idle connections go first, and at once.
func TestGateEvictsIdleConnectionsFirst(t *testing.T) {
	g := newGateTest(t, 2)
	g.newcomer()
	idle := g.newcomer()
	g.succeed(idle, g.now)
	if displaced := g.enterIdle(idle, g.now); displaced != nil {
		t.Error("an idle connection had to go although there was room")
	}
	g.newcomer()
	g.want(idle, 0)
	if displaced := g.enterIdle(idle, g.now); displaced != idle {
		t.Errorf("the gate is full of handshakes: %p had to go, want the idle connection %p", displaced, idle)
	}
	g.leave(idle) // as Close does again
	g.want(nil, 0)
}

// The address that has most handshakes gives way, silent as others may be, and before connections
// of others that are idle.
func TestGateIsSharedByAddresses(t *testing.T) {
	g := newGateTest(t, 6)
	honest := g.newcomerFrom("192.0.2.1")
	idle := g.newcomerFrom("192.0.2.2")
	g.succeed(idle, g.now)
	g.enterIdle(idle, g.now)
	var flood []*conn
	for i := range 4 {
		g.pass(testPatience / 8)
		flood = append(flood, g.newcomerFrom([]string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"}[i]))
	}
	g.want(nil, 0)
	g.newcomerFrom("192.0.2.3")
	g.pass(testPatience * 7 / 8)
	g.want(flood[0], 0) // the honest one has been silent for longer
	g.newcomerFrom("192.0.2.4")
	g.want(flood[1], 0)
	g.want(nil, 0)
	g.newcomerFrom("192.0.2.5")
	g.want(flood[2], 0)
	g.newcomerFrom("192.0.2.6") // now all have one
	g.want(idle, 0)
	g.newcomerFrom("192.0.2.7")
	g.want(honest, 0)
	if oldest := g.evictOldest(g.now); oldest != flood[3] {
		t.Errorf("%p is the oldest, want %p", oldest, flood[3])
	}
}

// Idle connections of one address do not push out those of another.
func TestGateSharesIdleConnections(t *testing.T) {
	g := newGateTest(t, 4)
	become := func(addr string) (c, displaced *conn) {
		c = g.newcomerFrom(addr)
		g.succeed(c, g.now)
		return c, g.enterIdle(c, g.now)
	}
	become("192.0.2.1")
	var flood []*conn
	for range 3 {
		c, _ := become("198.51.100.7")
		flood = append(flood, c)
	}
	for i := range 3 {
		if c, displaced := become("198.51.100.7"); displaced != flood[i] {
			t.Errorf("%p had to go, want %p of the same address", displaced, flood[i])
		} else {
			flood = append(flood, c)
		}
	}
	if _, displaced := become("192.0.2.1"); displaced != flood[3] {
		t.Errorf("%p had to go for another address, want %p", displaced, flood[3])
	}
}

// Clients that come at once are all served, however few may be in a handshake at a time and however
// long each takes to speak.
func TestCrowdIsServed(t *testing.T) {
	const size = 200
	s := &Server{Dial: dialEcho, MaxHandshakes: 8}
	addr := serve(t, s)
	var crowd []*chat
	for range size {
		crowd = append(crowd, dialChat(t, "tcp", addr))
	}
	eventually(t, "the gate is full", func() bool { return s.Stats().OpenConnections >= 8 })
	for _, c := range crowd {
		openers["socks5"](c)
		c.say("works").hear("works")
	}
	if got := s.Stats(); got.HandshakesEvicted != 0 || got.HandshakesFailed != 0 {
		t.Errorf("%d clients were evicted and %d failed, want none", got.HandshakesEvicted, got.HandshakesFailed)
	}
}
