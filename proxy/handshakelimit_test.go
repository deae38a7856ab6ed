package proxy

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// testSilence is the silenceLimit of a new limitTest.
const testSilence = time.Second

// limitTest drives a handshakeLimit with a clock of its own.
type limitTest struct {
	t *testing.T
	*handshakeLimit
	now time.Time
}

func newLimitTest(t *testing.T, max int) *limitTest {
	l := &limitTest{t, new(handshakeLimit), time.Unix(1000, 0)}
	l.init(max, usualDivisor*testSilence)
	return l
}

// connect adds the handshake of a connection whose client has sent nothing.
func (l *limitTest) connect() *conn { return l.connectFrom("127.0.0.1") }

func (l *limitTest) connectFrom(addr string) *conn {
	client, server := net.Pipe()
	l.t.Cleanup(func() { client.Close(); server.Close() })
	c := &conn{Conn: connFrom{server, netip.MustParseAddr(addr)}}
	l.addHandshake(c, l.now)
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

// want calls makeRoom and compares its results.
func (l *limitTest) want(evicted *conn, wait time.Duration) {
	l.t.Helper()
	if gotConn, gotWait := l.makeRoom(l.now); gotConn != evicted || gotWait != wait {
		l.t.Errorf("makeRoom returned %p and %v, want %p and %v", gotConn, gotWait, evicted, wait)
	}
}

func (l *limitTest) pass(d time.Duration) { l.now = l.now.Add(d) }

// Over the bound, the limit first waits for the clients it holds. Then it evicts the one that has
// been silent for longest.
func TestLimitWaitsBeforeItEvicts(t *testing.T) {
	l := newLimitTest(t, 2)
	first := l.connect()
	l.pass(testSilence / 4)
	second := l.connect()
	l.want(nil, 0)
	l.connect()
	l.want(nil, testSilence*3/4)
	l.pass(testSilence / 2)
	l.heard(first, l.now)
	l.want(nil, testSilence/2) // until the second has been silent for too long
	l.pass(testSilence / 2)
	l.want(second, 0)
	l.want(nil, 0)
}

// A handshake that succeeds makes room, and wakes an accept loop that waits.
func TestSuccessWakesWaiters(t *testing.T) {
	l := newLimitTest(t, 1)
	first := l.connect()
	l.connect()
	l.want(nil, testSilence)
	l.handshakeDone(first, l.now)
	select {
	case <-l.roomc:
	default:
		t.Error("no signal after a handshake has succeeded")
	}
	l.want(nil, 0)
	select {
	case <-l.roomc: // wakes another accept loop
	default:
		t.Error("an accept loop that finds room does not wake the next one")
	}
}

// silenceLimit falls with each eviction and follows the duration of successful handshakes.
func TestSilenceLimit(t *testing.T) {
	l := newLimitTest(t, 1)
	evict := func(silence time.Duration) {
		t.Helper()
		l.connect()
		l.want(nil, silence)
		l.pass(silence)
		if c, _ := l.makeRoom(l.now); c == nil {
			t.Fatal("no connection was evicted")
		}
		l.heard(l.mostSilentLocked(), l.now)
	}
	succeed := func(took time.Duration) {
		t.Helper()
		c := l.connect()
		l.pass(took)
		l.handshakeDone(c, l.now)
		l.heard(l.mostSilentLocked(), l.now)
	}
	l.connect()
	evict(testSilence)
	evict(testSilence / evictionDivisor)
	succeed(0)
	evict(testSilence / evictionDivisor / evictionDivisor * 2)
	for range 10 {
		succeed(0)
	}
	evict(testSilence)
	for range 10 {
		succeed(testSilence / 2)
	}
	evict(handshakeFactor * testSilence / 2)
	for range 10 {
		succeed(100 * testSilence)
	}
	evict(usualDivisor * testSilence)
	for range 20 {
		l.connect()
		l.pass(usualDivisor * testSilence)
		l.makeRoom(l.now)
		l.heard(l.mostSilentLocked(), l.now)
	}
	evict(minSilence)
}

// Idle connections are evicted before handshakes, and without a wait.
func TestIdleConnectionsAreEvictedFirst(t *testing.T) {
	l := newLimitTest(t, 2)
	l.connect()
	idle := l.connect()
	l.handshakeDone(idle, l.now)
	if evicted := l.addIdle(idle, l.now); evicted != nil {
		t.Error("an idle connection was evicted although there was room")
	}
	l.connect()
	l.want(idle, 0)
	if evicted := l.addIdle(idle, l.now); evicted != idle {
		t.Errorf("with as many handshakes as allowed, %p was evicted, want the idle connection %p", evicted, idle)
	}
	l.remove(idle) // as Close does after an eviction
	l.want(nil, 0)
}

// The evicted connection belongs to the address that has the most handshakes, even if others have
// been silent for longer or are idle.
func TestHandshakesAreSharedByAddress(t *testing.T) {
	l := newLimitTest(t, 6)
	honest := l.connectFrom("192.0.2.1")
	idle := l.connectFrom("192.0.2.2")
	l.handshakeDone(idle, l.now)
	l.addIdle(idle, l.now)
	var flood []*conn
	for i := range 4 {
		l.pass(testSilence / 8)
		flood = append(flood, l.connectFrom([]string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"}[i]))
	}
	l.want(nil, 0)
	l.connectFrom("192.0.2.3")
	l.pass(testSilence * 7 / 8)
	l.want(flood[0], 0) // although honest has been silent for longer
	l.connectFrom("192.0.2.4")
	l.want(flood[1], 0)
	l.want(nil, 0)
	l.connectFrom("192.0.2.5")
	l.want(flood[2], 0)
	l.connectFrom("192.0.2.6") // now each address has one
	l.want(idle, 0)
	l.connectFrom("192.0.2.7")
	l.want(honest, 0)
	if oldest := l.evictOldest(l.now); oldest != flood[3] {
		t.Errorf("%p is the oldest, want %p", oldest, flood[3])
	}
}

// Idle connections of one address do not evict those of another.
func TestIdleConnectionsAreSharedByAddress(t *testing.T) {
	l := newLimitTest(t, 4)
	becomeIdle := func(addr string) (c, evicted *conn) {
		c = l.connectFrom(addr)
		l.handshakeDone(c, l.now)
		return c, l.addIdle(c, l.now)
	}
	becomeIdle("192.0.2.1")
	var flood []*conn
	for range 3 {
		c, _ := becomeIdle("198.51.100.7")
		flood = append(flood, c)
	}
	for i := range 3 {
		if c, evicted := becomeIdle("198.51.100.7"); evicted != flood[i] {
			t.Errorf("%p was evicted, want %p of the same address", evicted, flood[i])
		} else {
			flood = append(flood, c)
		}
	}
	if _, evicted := becomeIdle("192.0.2.1"); evicted != flood[3] {
		t.Errorf("%p was evicted for another address, want %p", evicted, flood[3])
	}
}

// Clients that connect at the same time are all served, even if only a few may be in a handshake at
// a time and they are slow to speak.
func TestCrowdIsServed(t *testing.T) {
	const size = 200
	s := &Server{Dial: dialEcho, MaxHandshakes: 8}
	addr := serve(t, s)
	var crowd []*chat
	for range size {
		crowd = append(crowd, dialChat(t, "tcp", addr))
	}
	eventually(t, "as many handshakes as allowed", func() bool { return s.Stats().OpenConnections >= 8 })
	for _, c := range crowd {
		openers["socks5"](c)
		c.say("works").hear("works")
	}
	if got := s.Stats(); got.HandshakesEvicted != 0 || got.HandshakesFailed != 0 {
		t.Errorf("%d clients were evicted and %d failed, want none", got.HandshakesEvicted, got.HandshakesFailed)
	}
}
