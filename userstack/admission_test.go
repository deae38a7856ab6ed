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
	port  uint16 // of the last request
	begun []*request
}

func newAdmissionTest(t *testing.T, places, room int) *admissionTest {
	a := &admissionTest{t: t}
	a.init(places, room, func(a netip.Addr) netip.Addr { return a })
	return a
}

// offerFrom offers a new request, and reports whether it was taken.
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

// beginAll begins all requests for which there is a place, and returns how many of each source
// there are.
func (a *admissionTest) beginAll() map[netip.Addr]int {
	n := make(map[netip.Addr]int)
	for {
		r, syn := a.next()
		if r == nil {
			return n
		}
		if syn == nil {
			a.t.Error("a request without a SYN was begun")
		}
		n[r.queue.source.addr]++
		a.begun = append(a.begun, r)
	}
}

// endAll ends all requests that are worked on.
func (a *admissionTest) endAll() {
	for _, r := range a.begun {
		a.done(r)
	}
	a.begun = nil
}

// wantEmpty checks that nothing is left of requests that have ended.
func (a *admissionTest) wantEmpty() {
	a.t.Helper()
	if a.working != 0 || a.waiting != 0 || len(a.requests)+len(a.sources)+len(a.workingTo)+a.turns.Len() != 0 {
		a.t.Errorf("left: %d worked on, %d waiting, %d requests, %d sources, %d destinations, %d turns",
			a.working, a.waiting, len(a.requests), len(a.sources), len(a.workingTo), a.turns.Len())
	}
}

// One source gets a quarter of the places for one destination, and half for several. Another source
// gets a share of what is left, for the same destination too.
func TestAdmissionLeavesPlaces(t *testing.T) {
	a := newAdmissionTest(t, 64, 1000)
	for range 100 {
		a.offerFrom(peerA, web)
	}
	if got := a.beginAll()[peerA]; got != 16 {
		t.Errorf("one source got %d of 64 places for one destination, want 16", got)
	}
	for port := range uint16(10) {
		for range 30 {
			a.offerFrom(peerA, netip.AddrPortFrom(web.Addr(), 1000+port))
		}
	}
	a.beginAll()
	if got := a.working; got != 32 {
		t.Errorf("one source got %d of 64 places, want 32", got)
	}
	for range 100 {
		a.offerFrom(peerB, web)
		a.offerFrom(peerB, db)
	}
	if got := a.beginAll(); got[peerA] != 0 || got[peerB] != 16 {
		t.Errorf("another source got %d places, want 16; the first got %d more", got[peerB], got[peerA])
	}
	if got := a.workingTo[web]; got <= 16 {
		t.Errorf("the other source got no place for the same destination")
	}
}

// When places become free, sources take turns: one with many requests does not delay one with few.
func TestAdmissionTakesTurns(t *testing.T) {
	a := newAdmissionTest(t, 4, 1000)
	for range 100 {
		a.offerFrom(peerA, web)
	}
	for range 3 {
		a.offerFrom(peerB, web)
	}
	for range 3 {
		a.beginAll()
		a.endAll()
	}
	if left := a.sources[peerB]; left != nil {
		t.Errorf("after three turns, %d of 3 requests still wait", left.waiting)
	}
	for a.beginAll(); a.working > 0; a.beginAll() {
		a.endAll()
	}
	a.wantEmpty()
}

// Requests of one source for one destination are begun in the order in which they came.
func TestAdmissionKeepsOrder(t *testing.T) {
	a := newAdmissionTest(t, 4, 1000)
	for range 50 {
		a.offerFrom(peerA, web)
	}
	for port := uint16(1); port <= 50; port++ {
		r, _ := a.next()
		if r == nil || r.id.RemotePort != port {
			t.Fatalf("begun: %+v, want port %d", r, port)
		}
		a.done(r)
	}
	a.wantEmpty()
}

// A source may have half of the room for waiting requests, and leaves the rest to others.
func TestAdmissionLeavesRoom(t *testing.T) {
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

// A SYN that is repeated replaces the one before while its request waits, because its sender may
// have begun anew, and renews it. It is of no use while the request is worked on.
func TestAdmissionOfRepeatedSYN(t *testing.T) {
	a := newAdmissionTest(t, 4, 100)
	src := netip.AddrPortFrom(peerA, 1)
	first, second, third := newRequest(src, web), newRequest(src, web), newRequest(src, web)
	if a.offer(0, first) != nil {
		t.Fatal("a request was refused")
	}
	old := first.syn
	if useless := a.offer(time.Second, second); useless != old {
		t.Error("the first SYN was kept")
	}
	r, syn := a.next()
	if r != first || syn != second.syn || r.seen != time.Second {
		t.Errorf("begun with the SYN of %v, want that of 1s", r.seen)
	}
	if useless := a.offer(2*time.Second, third); useless != third.syn {
		t.Error("a SYN was kept for a request that is worked on")
	}
	if again, _ := a.next(); again != nil {
		t.Error("a request was begun twice")
	}
	a.done(r)
	a.wantEmpty()
}

// Whatever happens, the bounds hold, nothing is lost, and a request waits only while there is no
// place for it.
func TestAdmissionByChance(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		places, room := 4+rng.IntN(60), 1+rng.IntN(100)
		a := newAdmissionTest(t, places, room)
		taken, ended := 0, 0
		for range 2000 {
			switch rng.IntN(3) {
			case 0:
				src := netip.AddrFrom4([4]byte{100, 64, 0, byte(rng.IntN(5))})
				if a.offerFrom(src, netip.AddrPortFrom(web.Addr(), uint16(rng.IntN(4)))) {
					taken++
				}
			case 1:
				a.beginAll()
				a.wantNoneBeginnable()
			case 2:
				if i := len(a.begun); i > 0 {
					r := a.begun[rng.IntN(i)]
					a.begun = without(a.begun, r)
					a.done(r)
					ended++
				}
			}
			if a.working > places || a.waiting > room || taken != ended+a.working+a.waiting {
				t.Fatalf("%d of %d places and %d of %d for waiting are taken; of %d requests %d have ended",
					a.working, places, a.waiting, room, taken, ended)
			}
		}
		for a.beginAll(); a.working > 0; a.beginAll() {
			ended += len(a.begun)
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

// wantNoneBeginnable applies the rules to each waiting request by itself.
func (a *admissionTest) wantNoneBeginnable() {
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
			a.t.Errorf("a request of %v for %v waits although there is a place", r.queue.source.addr, r.queue.to)
		}
	}
}
