package userstack

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

var (
	peerA, peerB = netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")
	web          = netip.MustParseAddrPort("100.64.0.9:80")
	db           = netip.MustParseAddrPort("100.64.0.9:5432")
)

// admissionTest drives an admission.
type admissionTest struct {
	t *testing.T
	admission
	port    uint16 // of the last request
	started []*request
}

func newAdmissionTest(t *testing.T, places, maxWaiting int) *admissionTest {
	a := &admissionTest{t: t}
	a.init(places, maxWaiting, func(a netip.Addr) netip.Addr { return a })
	return a
}

// offerFrom offers a new request and reports whether it was accepted.
func (a *admissionTest) offerFrom(src netip.Addr, dst netip.AddrPort) bool {
	a.port++
	r := newRequest(netip.AddrPortFrom(src, a.port), dst)
	return a.offer(0, r) == nil
}

func newRequest(src, dst netip.AddrPort) *request {
	return &request{
		id: stack.TransportEndpointID{
			LocalAddress: addressOf(dst.Addr()), LocalPort: dst.Port(),
			RemoteAddress: addressOf(src.Addr()), RemotePort: src.Port(),
		},
		syn: stack.NewPacketBuffer(stack.PacketBufferOptions{}),
	}
}

// startAll starts all requests that may start, and returns their number by source.
func (a *admissionTest) startAll() map[netip.Addr]int {
	n := make(map[netip.Addr]int)
	for {
		r, syn := a.next()
		if r == nil {
			return n
		}
		if syn == nil {
			a.t.Error("a request without a SYN was started")
		}
		n[r.queue.source.addr]++
		a.started = append(a.started, r)
	}
}

// endAll ends all requests that are being handled.
func (a *admissionTest) endAll() {
	for _, r := range a.started {
		a.done(r)
	}
	a.started = nil
}

// wantEmpty checks that nothing remains after all requests have ended.
func (a *admissionTest) wantEmpty() {
	a.t.Helper()
	if a.working != 0 || a.waiting != 0 || len(a.requests)+len(a.sources)+len(a.workingTo)+a.turns.Len() != 0 {
		a.t.Errorf("remaining: %d handled, %d waiting, %d requests, %d sources, %d destinations, %d turns",
			a.working, a.waiting, len(a.requests), len(a.sources), len(a.workingTo), a.turns.Len())
	}
}

// A single source gets a quarter of the places for one destination, and half of them for several.
// Another source gets a share of the rest, also for the same destination.
func TestAdmissionLeavesPlaces(t *testing.T) {
	a := newAdmissionTest(t, 64, 1000)
	for range 100 {
		a.offerFrom(peerA, web)
	}
	if got := a.startAll()[peerA]; got != 16 {
		t.Errorf("one source got %d of 64 places for one destination, want 16", got)
	}
	for port := range uint16(10) {
		for range 30 {
			a.offerFrom(peerA, netip.AddrPortFrom(web.Addr(), 1000+port))
		}
	}
	a.startAll()
	if got := a.working; got != 32 {
		t.Errorf("one source got %d of 64 places, want 32", got)
	}
	for range 100 {
		a.offerFrom(peerB, web)
		a.offerFrom(peerB, db)
	}
	if got := a.startAll(); got[peerA] != 0 || got[peerB] != 16 {
		t.Errorf("another source got %d places, want 16; the first got %d more", got[peerB], got[peerA])
	}
	if got := a.workingTo[web]; got <= 16 {
		t.Errorf("the other source got no place for the same destination")
	}
}

// Sources are served round robin: a source with many requests does not delay one with few.
func TestAdmissionTakesTurns(t *testing.T) {
	a := newAdmissionTest(t, 4, 1000)
	for range 100 {
		a.offerFrom(peerA, web)
	}
	for range 3 {
		a.offerFrom(peerB, web)
	}
	for range 3 {
		a.startAll()
		a.endAll()
	}
	if left := a.sources[peerB]; left != nil {
		t.Errorf("after three turns, %d of 3 requests still wait", left.waiting)
	}
	for a.startAll(); a.working > 0; a.startAll() {
		a.endAll()
	}
	a.wantEmpty()
}

// Requests of one source to one destination start in the order in which they came.
func TestAdmissionKeepsOrder(t *testing.T) {
	a := newAdmissionTest(t, 4, 1000)
	for range 50 {
		a.offerFrom(peerA, web)
	}
	for port := uint16(1); port <= 50; port++ {
		r, _ := a.next()
		if r == nil || r.id.RemotePort != port {
			t.Fatalf("started: %+v, want port %d", r, port)
		}
		a.done(r)
	}
	a.wantEmpty()
}

// A single source may fill half of the queue of waiting requests, and leaves the rest to others.
func TestAdmissionSharesQueue(t *testing.T) {
	a := newAdmissionTest(t, 4, 100)
	taken := map[netip.Addr]int{}
	for range 200 {
		if a.offerFrom(peerA, web) {
			taken[peerA]++
		}
	}
	for range 200 {
		if a.offerFrom(peerB, web) {
			taken[peerB]++
		}
	}
	if taken[peerA] != 50 || taken[peerB] != 25 {
		t.Errorf("the sources have %d and %d requests waiting, want 50 and 25", taken[peerA], taken[peerB])
	}
	if got := len(a.requests); got != 75 {
		t.Errorf("%d requests are kept, want 75", got)
	}
}

// A retransmitted SYN replaces the older one while its request waits, and renews the request. It is
// returned while the request is being handled.
func TestAdmissionOfRetransmittedSYN(t *testing.T) {
	a := newAdmissionTest(t, 4, 100)
	src := netip.AddrPortFrom(peerA, 1)
	first, second, third := newRequest(src, web), newRequest(src, web), newRequest(src, web)
	if a.offer(0, first) != nil {
		t.Fatal("offer did not keep the SYN of a new request")
	}
	old := first.syn
	if surplus := a.offer(time.Second, second); surplus != old {
		t.Error("the first SYN was kept")
	}
	r, syn := a.next()
	if r != first || syn != second.syn || r.seen != time.Second {
		t.Errorf("started with the SYN of %v, want that of 1s", r.seen)
	}
	if surplus := a.offer(2*time.Second, third); surplus != third.syn {
		t.Error("offer kept a SYN of a request that is being handled")
	}
	if again, _ := a.next(); again != nil {
		t.Error("a request was started twice")
	}
	a.done(r)
	a.wantEmpty()
}

// In random sequences the limits hold, no request is lost, and a request waits only if it may not
// start.
func TestAdmissionAtRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		places, maxWaiting := 4+rng.IntN(60), 1+rng.IntN(100)
		a := newAdmissionTest(t, places, maxWaiting)
		taken, ended := 0, 0
		for range 2000 {
			switch rng.IntN(3) {
			case 0:
				src := netip.AddrFrom4([4]byte{100, 64, 0, byte(rng.IntN(5))})
				if a.offerFrom(src, netip.AddrPortFrom(web.Addr(), uint16(rng.IntN(4)))) {
					taken++
				}
			case 1:
				a.startAll()
				a.wantNoneStartable()
			case 2:
				if i := len(a.started); i > 0 {
					r := a.started[rng.IntN(i)]
					a.started = without(a.started, r)
					a.done(r)
					ended++
				}
			}
			if a.working > places || a.waiting > maxWaiting || taken != ended+a.working+a.waiting {
				t.Fatalf("%d of %d handled, %d of %d waiting; of %d requests %d have ended",
					a.working, places, a.waiting, maxWaiting, taken, ended)
			}
		}
		for a.startAll(); a.working > 0; a.startAll() {
			ended += len(a.started)
			a.endAll()
		}
		if ended != taken {
			t.Errorf("%d of %d requests have ended", ended, taken)
		}
		a.wantEmpty()
	}
}

func without(all []*request, r *request) (rest []*request) {
	for _, other := range all {
		if other != r {
			rest = append(rest, other)
		}
	}
	return rest
}

// wantNoneStartable checks the rules for each waiting request separately.
func (a *admissionTest) wantNoneStartable() {
	a.t.Helper()
	bySource, byDestination, byBoth := map[netip.Addr]int{}, map[netip.AddrPort]int{}, map[*requestQueue]int{}
	working := 0
	for _, r := range a.requests {
		if r.syn == nil {
			working++
			bySource[r.queue.source.addr]++
			byDestination[r.queue.to]++
			byBoth[r.queue]++
		}
	}
	for _, r := range a.requests {
		forSource := bySource[r.queue.source.addr] < a.places-working
		forBoth := byBoth[r.queue] < a.places/2-byDestination[r.queue.to]
		if r.syn != nil && forSource && forBoth {
			a.t.Errorf("a request of %v to %v waits although it may start", r.queue.source.addr, r.queue.to)
		}
	}
}
