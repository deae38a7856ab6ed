package userstack

import (
	"context"
	"math"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"ginnel/tuning"
)

// Connection requests are SYNs that the program accepts or rejects before they are answered, so
// that the peer learns whether the final destination can be reached. There are two kinds: to
// addresses behind this host (Router), and to ports of this host (RequestListener).

const (
	// The number of requests that are handled at a time is one for each placeMemory bytes of
	// Config.Buffers, between minRequestPlaces and maxRequestPlaces. Each takes about 30 KiB.
	maxRequestPlaces = 4096
	minRequestPlaces = 256
	placeMemory      = 64 << 10

	// waitingPerPlace is how many requests may wait for each one that is handled. A waiting request
	// takes about 1 KiB.
	waitingPerPlace = 4
)

// memoryWait is how long a request waits for a share of the memory before it is dropped.
const memoryWait = 10 * time.Second

// synQueue passes SYNs to gVisor's forwarders, as many at a time as admission allows.
type synQueue struct {
	s *Stack

	mu        sync.Mutex
	admission admission
}

// requestPlaces is how many requests may be handled at a time.
func (c *Config) requestPlaces() int {
	if c.Buffers == 0 {
		return maxRequestPlaces
	}
	return max(minRequestPlaces, min(c.Buffers/placeMemory, maxRequestPlaces))
}

// peerOf is Config.Peer or its default.
func (c *Config) peerOf() func(netip.Addr) netip.Addr {
	if c.Peer != nil {
		return c.Peer
	}
	return func(a netip.Addr) netip.Addr { return a }
}

// setRequestHandlers installs the handler of SYNs to ports without a Listener.
func (s *Stack) setRequestHandlers(cfg *Config) {
	places := cfg.requestPlaces()
	s.synQueue.s = s
	s.synQueue.admission.init(places, waitingPerPlace*places, cfg.peerOf())
	s.ownForwarder = s.newForwarder(s.passToListener)
	s.gv.SetTransportProtocolHandler(tcp.ProtocolNumber, s.handleUnmatched)
}

// newForwarder makes a forwarder without a limit of its own, because synQueue has one.
func (s *Stack) newForwarder(handle func(*ConnRequest)) *tcp.Forwarder {
	return tcp.NewForwarder(s.gv, s.memory.listenSize(), math.MaxInt, func(req *tcp.ForwarderRequest) {
		s.handleRequest(req, handle)
	})
}

// handleUnmatched gets the inbound segments that match no connection and no Listener. If it reports
// false, gVisor answers the segment with a reset.
func (s *Stack) handleUnmatched(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	via := s.routedForwarder
	if s.dev.isOwn(addrOf(id.LocalAddress)) {
		if s.requestListeners.get(id.LocalPort) == nil {
			return false
		}
		via = s.ownForwarder
	}
	const relevant = header.TCPFlagSyn | header.TCPFlagAck
	flags := header.TCP(pkt.TransportHeader().Slice()).Flags()
	if via == nil || flags&relevant != header.TCPFlagSyn {
		return false
	}
	s.synQueue.add(&request{id: id, via: via, syn: pkt.IncRef()})
	return true
}

// endTimeWait ends a connection in TIME-WAIT if flow is a SYN with the same addresses and ports. A
// peer that opens many connections reuses a port before that state ends, and TCP "MAY accept a new
// SYN from the remote TCP endpoint to reopen the connection directly from the TIME-WAIT state" (RFC
// 9293, section 3.6.1). gVisor does so only if there is a listener.
func (s *Stack) endTimeWait(f Flow) {
	if f.Protocol != TCP {
		return
	}
	id := stack.TransportEndpointID{
		LocalAddress: addressOf(f.Dst.Addr()), LocalPort: f.Dst.Port(),
		RemoteAddress: addressOf(f.Src.Addr()), RemotePort: f.Src.Port(),
	}
	ep, ok := s.gv.FindTransportEndpoint(protocolOf(f.Dst.Addr()), tcp.ProtocolNumber, id, nicID).(*tcp.Endpoint)
	if ok && ep.EndpointState() == tcp.StateTimeWait {
		ep.Abort()
	}
}

// add takes over r and its SYN.
func (q *synQueue) add(r *request) {
	q.mu.Lock()
	surplus := q.admission.offer(q.now(), r)
	q.mu.Unlock()
	if surplus != nil {
		surplus.DecRef()
	}
	q.startWaiting()
}

// startWaiting passes on all requests that admission lets start.
func (q *synQueue) startWaiting() {
	for {
		q.mu.Lock()
		r, syn := q.admission.next()
		now := q.now()
		q.mu.Unlock()
		if r == nil {
			return
		}
		if now-r.seen > requestLife || !r.via.HandlePacket(r.id, syn) {
			q.mu.Lock()
			q.admission.done(r)
			q.mu.Unlock()
		}
		syn.DecRef()
	}
}

// done frees the place of a request and starts waiting ones.
func (q *synQueue) done(id stack.TransportEndpointID) {
	q.mu.Lock()
	q.admission.done(q.admission.requests[id])
	q.mu.Unlock()
	q.startWaiting()
}

// close drops the waiting requests and all later ones.
func (q *synQueue) close() {
	q.mu.Lock()
	syns := q.admission.clear()
	q.mu.Unlock()
	for _, syn := range syns {
		syn.DecRef()
	}
}

// now is the time since the start of the stack's clock.
func (q *synQueue) now() time.Duration {
	return q.s.gv.Clock().NowMonotonic().Sub(tcpip.MonotonicTime{})
}

// handleRequest is called by a forwarder for each request, in a goroutine of its own. It acquires
// memory for the connection before the program sees the request.
func (s *Stack) handleRequest(req *tcp.ForwarderRequest, handle func(*ConnRequest)) {
	tuning.GrowStack()
	in := newConnRequest(s, req)
	if in.awaitMemory() != nil {
		in.finish(withoutReset)
		return
	}
	handle(in)
}

// awaitMemory waits for a share of the memory.
func (i *ConnRequest) awaitMemory() (err error) {
	if i.share, _ = i.s.memory.tryAcquire(); i.share != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), memoryWait)
	defer cancel()
	i.share, err = i.s.memory.acquire(ctx, i.s.dev.closec)
	return err
}

// passToListener passes a request to the RequestListener of its port.
func (s *Stack) passToListener(in *ConnRequest) {
	l := s.requestListeners.get(in.Dst.Port())
	if l == nil { // closed meanwhile
		in.Reject()
		return
	}
	l.handle(in)
}

// requestListeners are the RequestListeners of a stack by port. The zero value is ready for use.
type requestListeners struct {
	mu     sync.RWMutex
	byPort map[uint16]*RequestListener
}

// get returns the listener of a port, or nil.
func (r *requestListeners) get(port uint16) *RequestListener {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byPort[port]
}

func (r *requestListeners) add(l *RequestListener) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byPort == nil {
		r.byPort = make(map[uint16]*RequestListener)
	}
	r.byPort[l.port] = l
}

func (r *requestListeners) remove(l *RequestListener) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byPort, l.port)
}

// RequestListener receives the connection requests to a TCP port, on all addresses of a stack. Make
// it with ListenRequests.
type RequestListener struct {
	s      *Stack
	ep     tcpip.Endpoint // bound, but not listening, so that the port is reserved
	port   uint16
	handle func(*ConnRequest)
	once   sync.Once
}

// ListenRequests calls handle for each connection request to port that the filter accepts, each
// time in a goroutine of its own. handle must accept, reject or drop the request. Requests wait
// while too many others are being handled.
func (s *Stack) ListenRequests(port uint16, handle func(*ConnRequest)) (*RequestListener, error) {
	local := &net.TCPAddr{Port: int(port)}
	if s.closed.Load() {
		return nil, opError(opListen, "tcp", nil, local, net.ErrClosed)
	}
	ep, terr := s.gv.NewEndpoint(tcp.ProtocolNumber, header.IPv6ProtocolNumber, new(waiter.Queue))
	if terr == nil {
		if terr = ep.Bind(tcpip.FullAddress{Port: port}); terr != nil {
			ep.Close()
		}
	}
	if terr != nil {
		return nil, opError(opListen, "tcp", nil, local, errorOf(terr))
	}
	l := &RequestListener{s: s, ep: ep, port: port, handle: handle}
	s.requestListeners.add(l)
	return l, nil
}

// Close frees the port. Accepted connections stay open.
func (l *RequestListener) Close() error {
	l.once.Do(func() {
		l.s.requestListeners.remove(l)
		l.ep.Close()
	})
	return nil
}

// ConnRequest is a connection request from a peer that is not answered yet. Exactly one of Accept,
// Reject and Drop must be called.
type ConnRequest struct {
	Src, Dst netip.AddrPort
	s        *Stack
	req      *tcp.ForwarderRequest
	share    *share // of the memory, for the connection
}

func newConnRequest(s *Stack, req *tcp.ForwarderRequest) *ConnRequest {
	src, dst := endsOf(req.ID())
	return &ConnRequest{Src: src, Dst: dst, s: s, req: req}
}

// endsOf returns the two ends of a connection; the destination is that of the stack.
func endsOf(id stack.TransportEndpointID) (src, dst netip.AddrPort) {
	src = netip.AddrPortFrom(addrOf(id.RemoteAddress), id.RemotePort)
	dst = netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort)
	return src, dst
}

// Reject answers with a reset: connection refused.
func (i *ConnRequest) Reject() {
	i.s.memory.release(i.share)
	i.finish(withReset)
}

// Drop does not answer, as if the SYN had been lost. The peer retransmits it, which makes a new
// request.
func (i *ConnRequest) Drop() {
	i.s.memory.release(i.share)
	i.finish(withoutReset)
}

// completion is what gVisor does when a request is finished.
type completion int

const (
	withoutReset completion = iota
	withReset
)

// finish frees the place of the request.
func (i *ConnRequest) finish(how completion) {
	id := i.req.ID()
	i.req.Complete(how == withReset)
	i.s.synQueue.done(id)
}

// Accept completes the TCP handshake, which waits for the peer.
func (i *ConnRequest) Accept() (*Conn, error) {
	defer i.finish(withoutReset)
	wq := new(waiter.Queue)
	ep, terr := i.completeHandshake(wq)
	if terr != nil {
		i.s.memory.release(i.share)
		local, remote := net.TCPAddrFromAddrPort(i.Dst), net.TCPAddrFromAddrPort(i.Src)
		return nil, opError(opAccept, "tcp", local, remote, errorOf(terr))
	}
	setConnOptions(ep)
	i.share.apply(ep)
	return newConn(i.s, i.share, ep, wq, i.s.mss(i.Dst.Addr())), nil
}

// completeHandshake sends a SYN-ACK and waits for the ACK. Stack.Close aborts it; see endAccepts.
func (i *ConnRequest) completeHandshake(wq *waiter.Queue) (tcpip.Endpoint, tcpip.Error) {
	i.s.accepting.Add(1)
	defer i.s.accepting.Add(-1)
	if i.s.closed.Load() {
		return nil, &tcpip.ErrAborted{}
	}
	return i.req.CreateEndpoint(wq)
}
