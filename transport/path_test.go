package transport

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ginnel/internal/disco"
)

var (
	public  = netip.MustParseAddrPort("203.0.113.7:41641")
	private = netip.MustParseAddrPort("192.168.1.5:41641")
	other   = netip.MustParseAddrPort("198.51.100.3:500")
)

// pathTest drives one machine by hand. Time is what the test says.
type pathTest struct {
	t   *testing.T
	p   *path
	now time.Time
	ids uint64
	out effects
}

func newPathTest(t *testing.T, endpoints ...netip.AddrPort) *pathTest {
	pt := &pathTest{t: t, now: time.Unix(1700000000, 0)}
	pt.p = newPath(func() (id disco.TxID) {
		pt.ids++
		binary.BigEndian.PutUint64(id[:], pt.ids)
		return id
	})
	pt.p.setEndpoints(pt.now, endpoints)
	return pt
}

// after moves the clock, ticking whenever the machine asks for it.
func (pt *pathTest) after(d time.Duration) {
	end := pt.now.Add(d)
	for range 10000 {
		next := pt.p.next(pt.now)
		if next.IsZero() || next.After(end) {
			pt.now = end
			return
		}
		if next.After(pt.now) {
			pt.now = next
		}
		pt.out.merge(pt.p.tick(pt.now))
	}
	pt.t.Fatal("the machine asks to be called without end")
}

// wantPings checks, and forgets, what the machine sent since the last call.
func (pt *pathTest) wantPings(want ...netip.AddrPort) []outPing {
	pt.t.Helper()
	got := pt.out.pings
	addrs := make([]netip.AddrPort, len(got))
	for i, o := range got {
		addrs[i] = o.addr
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	slices.SortFunc(want, netip.AddrPort.Compare)
	if !slices.Equal(addrs, want) {
		pt.t.Errorf("pings to %v, want %v", addrs, want)
	}
	pt.out.pings = nil
	return got
}

func (pt *pathTest) wantCall(want bool) {
	pt.t.Helper()
	if pt.out.callMeMaybe != want {
		pt.t.Errorf("CallMeMaybe %v, want %v", pt.out.callMeMaybe, want)
	}
	pt.out.callMeMaybe = false
}

func (pt *pathTest) wantRoute(direct netip.AddrPort, relay bool) {
	pt.t.Helper()
	if d, r := pt.p.route(pt.now); d != direct || r != relay {
		pt.t.Errorf("route is %v, relay %v, want %v, %v", d, r, direct, relay)
	}
}

func (pt *pathTest) send() { pt.out.merge(pt.p.sent(pt.now)) }

// pong answers those of pings that went to addr.
func (pt *pathTest) pong(pings []outPing, addr netip.AddrPort) {
	pt.t.Helper()
	for _, o := range pings {
		if o.addr == addr {
			if _, ok := pt.p.ponged(pt.now, o.txid); !ok {
				pt.t.Errorf("the Pong from %v was not expected", addr)
			}
		}
	}
}

// direct brings the machine to a trusted path over public.
func (pt *pathTest) direct() {
	pt.t.Helper()
	pt.send()
	pings := pt.wantPings(public)
	pt.now = pt.now.Add(20 * time.Millisecond)
	pt.pong(pings, public)
	pt.wantRoute(public, false)
	pt.out = effects{}
}

var noAddr netip.AddrPort

// "The first data packet itself starts round 1 at once; packets go by DERP meanwhile."
func TestPathFirstSend(t *testing.T) {
	pt := newPathTest(t, public, private)
	if next := pt.p.next(pt.now); !next.IsZero() {
		t.Errorf("an idle path wants to be called at %v", next)
	}
	pt.wantRoute(noAddr, true)
	pt.send()
	pt.wantRoute(noAddr, true)
	pings := pt.wantPings(public, private)
	pt.wantCall(true)
	pt.now = pt.now.Add(10 * time.Millisecond)
	pt.pong(pings, public)
	pt.wantRoute(public, false)
	pt.now = pt.now.Add(time.Millisecond)
	pt.pong(pings, private)
	pt.wantRoute(private, false) // nearly as fast, and private
}

// "With no answers and constant traffic, pings and CMM repeat every 5–6 s."
func TestPathKeepsLooking(t *testing.T) {
	pt := newPathTest(t, public)
	pt.send()
	pt.wantPings(public)
	pt.wantCall(true)
	rounds := 0
	for range 60 {
		pt.send()
		pt.after(time.Second)
		if pt.out.callMeMaybe {
			rounds++
		}
		if len(pt.out.pings) > 1 {
			t.Errorf("%d pings to one candidate within a second", len(pt.out.pings))
		}
		pt.out = effects{}
	}
	if rounds < 10 || rounds > 12 {
		t.Errorf("%d rounds in a minute, want 10 to 12", rounds)
	}
	pt.wantRoute(noAddr, true)
}

// "An implementation must ... send a CMM itself, to be reached directly": also when it knows no
// address of the peer.
func TestPathWithoutCandidatesCalls(t *testing.T) {
	pt := newPathTest(t)
	pt.send()
	pt.wantPings()
	pt.wantCall(true)
	pt.after(2 * time.Second)
	pt.wantCall(false)
}

// "Timer of 3 s ... Each tick: stop if the last such send is > 45 s ago; else ping the best
// address."
func TestPathHeartbeat(t *testing.T) {
	pt := newPathTest(t, public)
	pt.direct()
	pt.p.best.latency = time.Millisecond
	for range 5 {
		pt.send()
		pt.after(heartbeatInterval)
		pt.pong(pt.wantPings(public), public)
		pt.wantCall(false)
		pt.wantRoute(public, false)
	}
	pt.after(sessionTimeout + heartbeatInterval)
	if pt.p.active {
		t.Error("still active 48 s after the last send")
	}
	pt.out = effects{}
	pt.after(time.Hour)
	pt.wantPings()
	if next := pt.p.next(pt.now); !next.IsZero() {
		t.Errorf("an idle path wants to be called at %v", next)
	}
}

// "Typical loss of a path": packets go over the relay as well once an answer is a second late, and
// over the relay alone once a ping has timed out. The first Pong brings it back.
func TestPathLoss(t *testing.T) {
	pt := newPathTest(t, public)
	pt.direct()
	pt.send()
	pt.now = pt.p.heartbeat
	pt.after(0)
	pt.wantRoute(public, false)
	pt.wantPings(public)
	pt.after(suspectAfter - time.Millisecond)
	pt.wantRoute(public, false)
	pt.after(time.Millisecond)
	pt.wantRoute(public, true)
	pings := pt.wantPings(public)
	pt.after(pingTimeout)
	pt.wantRoute(noAddr, true)
	pt.send()
	pt.out = effects{}
	pt.after(2 * pingTimeout)
	for _, o := range pings {
		if _, ok := pt.p.ponged(pt.now, o.txid); ok {
			t.Error("a Pong was accepted after its ping had timed out")
		}
	}
	pt.wantRoute(noAddr, true)
	last := pt.out.pings[len(pt.out.pings)-1:]
	pt.pong(last, public)
	pt.wantRoute(public, false)
}

// While nothing is sent, nothing but heartbeats wakes the machine. A path that dies meanwhile is
// noticed one heartbeat later.
func TestPathIdle(t *testing.T) {
	pt := newPathTest(t, public)
	pt.direct()
	pt.send()
	wakeHeartbeat := func() (pings []outPing) {
		t.Helper()
		if next := pt.p.next(pt.now); !next.Equal(pt.p.heartbeat) {
			t.Errorf("the machine asks to be called %v before the heartbeat", pt.p.heartbeat.Sub(next))
		}
		pt.after(pt.p.heartbeat.Sub(pt.now))
		return pt.wantPings(public)
	}
	pt.pong(wakeHeartbeat(), public)
	for range 5 {
		pings := wakeHeartbeat()
		wait := pt.p.next(pt.now).Sub(pt.now)
		if wait != heartbeatInterval {
			t.Errorf("the machine asks to be called in %v, want %v", wait, heartbeatInterval)
		}
		pt.now = pt.now.Add(20 * time.Millisecond)
		pt.pong(pings, public)
	}
	wakeHeartbeat() // lost
	pt.after(heartbeatInterval - time.Millisecond)
	pt.wantRoute(public, false)
	pt.after(time.Millisecond)
	pt.wantRoute(public, true)
}

// A lost heartbeat alone does not end a path: the one after it forgives.
func TestPathSurvivesOneLostHeartbeat(t *testing.T) {
	pt := newPathTest(t, public)
	pt.direct()
	pt.send()
	pt.after(heartbeatInterval)
	pt.wantPings(public) // lost
	pt.after(suspectAfter)
	pt.wantRoute(public, true)
	again := pt.wantPings(public)
	pt.now = pt.now.Add(30 * time.Millisecond)
	pt.pong(again, public)
	pt.wantRoute(public, false)
	pt.after(suspectAfter)
	pt.wantRoute(public, false)
}

// "A Pong that arrives through DERP finishes the ping but never qualifies a UDP address."
func TestPathRelayedPongProvesNothing(t *testing.T) {
	pt := newPathTest(t, public)
	pt.send()
	for _, o := range pt.wantPings(public) {
		if _, ok := pt.p.pongedByRelay(o.txid); !ok {
			t.Error("the Pong was not expected")
		}
		if _, ok := pt.p.ponged(pt.now, o.txid); ok {
			t.Error("a second Pong was accepted")
		}
	}
	pt.wantRoute(noAddr, true)
}

// "TxID must belong to an outstanding ping", and "the address that was pinged must still be a
// candidate".
func TestPathUnaskedPong(t *testing.T) {
	pt := newPathTest(t, public)
	pt.send()
	pings := pt.wantPings(public)
	if _, ok := pt.p.ponged(pt.now, disco.TxID{0xff}); ok {
		t.Error("a Pong for no ping was accepted")
	}
	pt.p.setEndpoints(pt.now, nil)
	pt.pong(pings, public)
	pt.wantRoute(noAddr, true)
}

// "then for every peer clear the best address ... Candidates stay"
func TestPathReset(t *testing.T) {
	pt := newPathTest(t, public)
	pt.direct()
	pt.out = pt.p.reset(pt.now)
	pt.wantRoute(noAddr, true)
	pt.wantPings(public)
}

// "best latency > 5 ms and the last round ≥ 60 s ago"
func TestPathUpgrade(t *testing.T) {
	pt := newPathTest(t, public)
	pt.direct() // 20 ms
	pt.p.setEndpoints(pt.now, []netip.AddrPort{public, private})
	tried := 0
	for range 24 {
		pt.send()
		pt.after(heartbeatInterval)
		for _, o := range pt.out.pings {
			if o.addr == private {
				tried++
			}
		}
		pings := pt.out.pings
		pt.out = effects{}
		pt.now = pt.now.Add(20 * time.Millisecond)
		pt.pong(pings, public)
	}
	if tried != 1 {
		t.Errorf("%d looks for something better in 72 s, want 1", tried)
	}
}

func TestPathProbe(t *testing.T) {
	pt := newPathTest(t, public)
	pt.out = pt.p.probe(pt.now)
	pt.pong(pt.wantPings(public), public)
	pt.out = pt.p.probe(pt.now)
	pt.wantPings(public)
	pt.wantCall(false)
}

func TestFirstTime(t *testing.T) {
	a, b := time.Unix(1, 0), time.Unix(2, 0)
	for _, c := range [][3]time.Time{{a, b, a}, {b, a, a}, {{}, a, a}, {a, {}, a}, {{}, {}, {}}} {
		if got := firstTime(c[0], c[1]); got != c[2] {
			t.Errorf("firstTime(%v, %v) = %v", c[0], c[1], got)
		}
	}
}

func BenchmarkPathHeartbeat(b *testing.B) {
	ids := uint64(0)
	p := newPath(func() (id disco.TxID) { ids++; binary.BigEndian.PutUint64(id[:], ids); return id })
	now := time.Unix(1700000000, 0)
	endpoints := make([]netip.AddrPort, 10)
	for i := range endpoints {
		endpoints[i] = netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:41641", i+1))
	}
	p.setEndpoints(now, endpoints)
	for _, o := range p.sent(now).pings {
		p.ponged(now.Add(time.Millisecond), o.txid)
	}
	b.ReportAllocs()
	for b.Loop() {
		p.sent(now)
		now = p.next(now)
		for _, o := range p.tick(now).pings {
			p.ponged(now, o.txid)
		}
	}
}
