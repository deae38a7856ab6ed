package userstack

import (
	"container/list"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// admission decides which connection requests are worked on and which wait. It has no lock, clock
// or goroutine.
//
// The number of requests that are worked on is bounded, because each takes a goroutine and mostly a
// connection of the host. The others wait in order, until there is a place for their source and for
// their destination:
//
//   - A source may take a place if it holds fewer places than are free. So one source gets half of
//     the places, two sources get a third each, and a place is left for a source that comes later
//     (Choudhury and Hahne, "Dynamic Queue Length Thresholds", 1998).
//   - A destination may take half of the places, because its answers may take long. Within that
//     half the first rule holds again. So one source gets a quarter of the places for one
//     destination.
//
// Sources take turns, and so do the destinations of one source. The first rule bounds the room for
// waiting requests too. A request that finds no room is dropped, and its sender repeats it.
type admission struct {
	places     int                         // for requests that are worked on
	maxWaiting int                         // for requests that wait
	peerOf     func(netip.Addr) netip.Addr // names the source that an address belongs to

	working   int
	waiting   int
	requests  map[stack.TransportEndpointID]*request
	sources   map[netip.Addr]*source
	workingTo map[netip.AddrPort]int // requests that are worked on, by destination
	turns     list.List              // of *source: those that have requests waiting
}

// requestLife is how long a request waits after its SYN was last repeated. Its sender has most
// likely given up then.
const requestLife = 30 * time.Second

// request is a connection that a SYN asks for and that nobody has accepted or refused yet.
type request struct {
	id    stack.TransportEndpointID
	via   *tcp.Forwarder
	syn   *stack.PacketBuffer // the last one; nil while the request is worked on
	seen  time.Duration       // when it came
	queue *requestQueue
}

// source is a peer that has sent requests.
type source struct {
	addr    netip.Addr
	working int
	waiting int
	queues  map[netip.AddrPort]*requestQueue
	turns   list.List     // of *requestQueue: those that have requests waiting
	turn    *list.Element // in admission.turns; nil if nothing waits
}

// requestQueue has the requests of one source for one destination.
type requestQueue struct {
	source  *source
	to      netip.AddrPort
	working int
	waiting []*request    // oldest first
	turn    *list.Element // in source.turns; nil if nothing waits
}

func (a *admission) init(places, room int, peerOf func(netip.Addr) netip.Addr) {
	a.places, a.maxWaiting, a.peerOf = places, room, peerOf
	a.requests = make(map[stack.TransportEndpointID]*request)
	a.sources = make(map[netip.Addr]*source)
	a.workingTo = make(map[netip.AddrPort]int)
}

// offer adds a request. It returns the SYN that is of no use: an older one of the same request, or
// that of r if the request is worked on or there is no room for it.
func (a *admission) offer(now time.Duration, r *request) (useless *stack.PacketBuffer) {
	if known := a.requests[r.id]; known != nil {
		if known.syn == nil {
			return r.syn
		}
		useless, known.syn, known.seen = known.syn, r.syn, now // with another sequence number if its sender began anew
		return useless
	}
	src, dst := endsOf(r.id)
	peer := a.peerOf(src.Addr())
	s := a.sources[peer]
	waiting := 0
	if s != nil {
		waiting = s.waiting
	}
	if waiting >= a.maxWaiting-a.waiting {
		return r.syn
	}
	if s == nil {
		s = &source{addr: peer, queues: make(map[netip.AddrPort]*requestQueue)}
		a.sources[peer] = s
	}
	q := s.queues[dst]
	if q == nil {
		q = &requestQueue{source: s, to: dst}
		s.queues[dst] = q
	}
	r.seen, r.queue = now, q
	a.requests[r.id] = r
	a.enqueue(r)
	return nil
}

func (a *admission) enqueue(r *request) {
	q := r.queue
	s := q.source
	q.waiting = append(q.waiting, r)
	s.waiting++
	a.waiting++
	if q.turn == nil {
		q.turn = s.turns.PushBack(q)
	}
	if s.turn == nil {
		s.turn = a.turns.PushBack(s)
	}
}

// next returns a request for which there is a place, and its SYN; it is worked on until done is
// called. It returns nil if there is none.
func (a *admission) next() (*request, *stack.PacketBuffer) {
	for range a.turns.Len() {
		s := a.turns.Front().Value.(*source)
		a.turns.MoveToBack(s.turn)
		if s.working >= a.places-a.working {
			continue
		}
		for range s.turns.Len() {
			q := s.turns.Front().Value.(*requestQueue)
			s.turns.MoveToBack(q.turn)
			if q.working < a.places/2-a.workingTo[q.to] {
				return a.start(q)
			}
		}
	}
	return nil, nil
}

// start takes the oldest request of a queue and gives it a place.
func (a *admission) start(q *requestQueue) (*request, *stack.PacketBuffer) {
	s, r := q.source, q.waiting[0]
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
	s.waiting--
	a.waiting--
	if len(q.waiting) == 0 {
		s.turns.Remove(q.turn)
		q.turn, q.waiting = nil, nil
	}
	if s.waiting == 0 {
		a.turns.Remove(s.turn)
		s.turn = nil
	}
	a.working++
	s.working++
	q.working++
	a.workingTo[q.to]++
	syn := r.syn
	r.syn = nil
	return r, syn
}

// done takes back the place of a request.
func (a *admission) done(r *request) {
	q := r.queue
	s := q.source
	delete(a.requests, r.id)
	a.working--
	s.working--
	q.working--
	if a.workingTo[q.to]--; a.workingTo[q.to] == 0 {
		delete(a.workingTo, q.to)
	}
	if q.working == 0 && len(q.waiting) == 0 {
		delete(s.queues, q.to)
	}
	if s.working == 0 && s.waiting == 0 {
		delete(a.sources, s.addr)
	}
}

// clear forgets the requests that wait, and returns their SYNs. It takes no others from then on.
func (a *admission) clear() (useless []*stack.PacketBuffer) {
	for id, r := range a.requests {
		if r.syn != nil {
			useless = append(useless, r.syn)
			delete(a.requests, id)
		}
	}
	a.maxWaiting = 0
	a.turns.Init()
	return useless
}
