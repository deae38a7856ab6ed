package userstack

import (
	"container/list"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// admission decides which connection requests are handled now and which wait. It has no lock, clock
// or goroutine.
//
// The number of requests that are handled at a time is bounded, because each takes a goroutine and
// usually a host connection. A handled request occupies a place. Further requests wait in order
// until their source and their destination may take another place:
//
//   - A source may take a place if it holds fewer places than are free. So a single source gets
//     half of the places, two sources get a third each, and a place remains for a source that comes
//     later (Choudhury and Hahne, "Dynamic Queue Length Thresholds", 1998).
//   - A destination may take half of the places, because it may answer slowly. Within that half the
//     first rule applies again. So a single source gets a quarter of the places for one
//     destination.
//
// Sources are served round robin, and so are the destinations of one source. The first rule also
// bounds the queue of waiting requests. A request that does not fit is dropped, and its sender
// retransmits it.
type admission struct {
	places     int                         // requests that may be handled at a time
	maxWaiting int                         // requests that may wait
	peerOf     func(netip.Addr) netip.Addr // maps an address to the source that it belongs to

	working   int // requests that are handled now
	waiting   int
	requests  map[stack.TransportEndpointID]*request
	sources   map[netip.Addr]*source
	workingTo map[netip.AddrPort]int // requests that are handled now, by destination
	turns     list.List              // of *source: the sources that have waiting requests
}

// requestLife is how long a request waits after the last copy of its SYN came. Its sender has most
// likely given up by then.
const requestLife = 30 * time.Second

// request is a connection request (a SYN) that has been neither accepted nor rejected yet.
type request struct {
	id    stack.TransportEndpointID
	via   *tcp.Forwarder
	syn   *stack.PacketBuffer // the latest copy; nil while the request is handled
	seen  time.Duration       // when syn came
	queue *requestQueue
}

// source is a peer that has sent requests.
type source struct {
	addr    netip.Addr
	working int
	waiting int
	queues  map[netip.AddrPort]*requestQueue
	turns   list.List     // of *requestQueue: the queues that are not empty
	turn    *list.Element // the element in admission.turns, or nil if no request waits
}

// requestQueue holds the requests of one source to one destination.
type requestQueue struct {
	source  *source
	to      netip.AddrPort
	working int
	waiting []*request    // oldest first
	turn    *list.Element // the element in source.turns, or nil if no request waits
}

func (a *admission) init(places, room int, peerOf func(netip.Addr) netip.Addr) {
	a.places, a.maxWaiting, a.peerOf = places, room, peerOf
	a.requests = make(map[stack.TransportEndpointID]*request)
	a.sources = make(map[netip.Addr]*source)
	a.workingTo = make(map[netip.AddrPort]int)
}

// offer adds a request. It returns a SYN that the caller must release, if any: the older copy if
// the request waits already, or that of r if the request is being handled or the queue is full.
func (a *admission) offer(now time.Duration, r *request) (surplus *stack.PacketBuffer) {
	if known := a.requests[r.id]; known != nil {
		if known.syn == nil {
			return r.syn
		}
		// Keep the newer SYN: its sequence number differs if the sender has started a new connection.
		surplus, known.syn, known.seen = known.syn, r.syn, now
		return surplus
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

// next returns a request that may take a place, and its SYN, or nil if there is none. The request
// holds its place until done is called.
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

// start removes the oldest request from a queue and gives it a place.
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

// done frees the place of a request.
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

// clear removes all waiting requests and returns their SYNs. Later requests do not wait any more.
func (a *admission) clear() (syns []*stack.PacketBuffer) {
	for id, r := range a.requests {
		if r.syn != nil {
			syns = append(syns, r.syn)
			delete(a.requests, id)
		}
	}
	a.maxWaiting = 0
	a.turns.Init()
	return syns
}
