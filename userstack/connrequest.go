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

	"ginnel/internal/deepstack"
)

// This file has the connections that are decided about before they are answered, so that the peer
// learns whether the destination is there: those to addresses behind this host, and those to ports
// of its own that a Gate holds.

const (
	// maxRequestPlaces requests are worked on at a time, and at least minPlaces. Between these, it is one
	// for each placeMemory bytes that connections may buffer: a request takes some 30 KiB.
	maxRequestPlaces = 4096
	minRequestPlaces = 256
	placeMemory      = 64 << 10

	// waitingPerPlace requests may wait for each place. One that waits takes about 1 KiB.
	waitingPerPlace = 4
)

// memoryWait is how long a request waits for memory before it is dropped.
const memoryWait = 10 * time.Second

// synQueue hands the SYNs of peers to gVisor's forwarders, as many at a time as admission allows.
type synQueue struct {
	s *Stack

	mu        sync.Mutex
	admission admission
}

// requestPlaces is how many requests may be worked on at a time.
func (c *Config) requestPlaces() int {
	if c.Buffers == 0 {
		return maxRequestPlaces
	}
	return max(minRequestPlaces, min(c.Buffers/placeMemory, maxRequestPlaces))
}

// peerOf is Config.Peer without a nil.
func (c *Config) peerOf() func(netip.Addr) netip.Addr {
	if c.Peer != nil {
		return c.Peer
	}
	return func(a netip.Addr) netip.Addr { return a }
}

// setRequestHandlers has the stack ask the gates about what has no listener.
func (s *Stack) setRequestHandlers(cfg *Config) {
	places := cfg.requestPlaces()
	s.synQueue.s = s
	s.synQueue.admission.init(places, waitingPerPlace*places, cfg.peerOf())
	s.ownForwarder = s.newForwarder(s.passToListener)
	s.gv.SetTransportProtocolHandler(tcp.ProtocolNumber, s.handleUnmatched)
}

// newForwarder makes a forwarder without a bound of its own: incoming has one.
func (s *Stack) newForwarder(handle func(*ConnRequest)) *tcp.Forwarder {
	work := func(req *tcp.ForwarderRequest) { s.handleRequest(req, handle) }
	return tcp.NewForwarder(s.gv, s.memory.listenSize(), math.MaxInt, work)
}

// handleUnmatched gets the segments that belong to no connection or listener. Where it reports false
// they are refused.
func (s *Stack) handleUnmatched(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	via := s.routedForwarder
	if s.dev.isOwn(addrOf(id.LocalAddress)) {
		if _, held := s.requestListeners.Load(id.LocalPort); !held {
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

// endTimeWait makes way for a SYN whose addresses and ports are those of a connection in TIME-WAIT. A
// peer that opens many connections uses a port again before that state ends, and "MAY accept a new
// SYN from the remote TCP endpoint to reopen the connection directly from the TIME-WAIT state" (RFC
// 9293, section 3.6.1). gVisor does so only where there is a listener.
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

// add takes over the SYN of a request.
func (i *synQueue) add(r *request) {
	i.mu.Lock()
	useless := i.admission.offer(i.now(), r)
	i.mu.Unlock()
	if useless != nil {
		useless.DecRef()
	}
	i.startWaiting()
}

// startWaiting hands over all requests for which there is a place.
func (i *synQueue) startWaiting() {
	for {
		i.mu.Lock()
		r, syn := i.admission.next()
		now := i.now()
		i.mu.Unlock()
		if r == nil {
			return
		}
		if now-r.seen > requestLife || !r.via.HandlePacket(r.id, syn) {
			i.mu.Lock()
			i.admission.done(r)
			i.mu.Unlock()
		}
		syn.DecRef()
	}
}

// done takes back the place of a request, for the next.
func (i *synQueue) done(id stack.TransportEndpointID) {
	i.mu.Lock()
	i.admission.done(i.admission.requests[id])
	i.mu.Unlock()
	i.startWaiting()
}

// close forgets the requests that wait.
func (i *synQueue) close() {
	i.mu.Lock()
	useless := i.admission.clear()
	i.mu.Unlock()
	for _, syn := range useless {
		syn.DecRef()
	}
}

// now is the time since the beginning of the stack's clock.
func (i *synQueue) now() time.Duration {
	return i.s.gv.Clock().NowMonotonic().Sub(tcpip.MonotonicTime{})
}

// handleRequest is called by a forwarder, each time in a goroutine of its own. Before anything is done for a
// request, there must be memory for its connection.
func (s *Stack) handleRequest(req *tcp.ForwarderRequest, handle func(*ConnRequest)) {
	deepstack.Grow()
	in := newConnRequest(s, req)
	if in.awaitMemory() != nil {
		in.finish(withoutReset)
		return
	}
	handle(in)
}

// awaitMemory waits for a share for the connection.
func (i *ConnRequest) awaitMemory() (err error) {
	if i.share, _ = i.s.memory.tryAcquire(); i.share != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), memoryWait)
	defer cancel()
	i.share, err = i.s.memory.acquire(ctx, i.s.dev.closec)
	return err
}

// passToListener has a gate decide.
func (s *Stack) passToListener(in *ConnRequest) {
	g, held := s.requestListeners.Load(in.Dst.Port())
	if !held { // any more
		in.Reject()
		return
	}
	g.(*RequestListener).handle(in)
}

// RequestListener holds a TCP port on all addresses of a stack. Make it with OpenGate.
type RequestListener struct {
	s      *Stack
	ep     tcpip.Endpoint // bound and no more, so that nobody else takes the port
	port   uint16
	handle func(*ConnRequest)
	once   sync.Once
}

// ListenRequests has take called, each time in a goroutine of its own, for each connection that somebody
// wants to port and the filter allows; it has to accept, refuse or drop it. Requests wait while too
// many others are being decided about.
func (s *Stack) ListenRequests(port uint16, take func(*ConnRequest)) (*RequestListener, error) {
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
	g := &RequestListener{s: s, ep: ep, port: port, handle: take}
	s.requestListeners.Store(port, g)
	return g, nil
}

// Close gives up the port. Connections that were accepted live on.
func (g *RequestListener) Close() error {
	g.once.Do(func() {
		g.s.requestListeners.Delete(g.port)
		g.ep.Close()
	})
	return nil
}

// ConnRequest is a connection that somebody wants and that nobody has answered yet.
type ConnRequest struct {
	Src, Dst netip.AddrPort
	s        *Stack
	req      *tcp.ForwarderRequest
	share    *share // of memory, for the connection
}

func newConnRequest(s *Stack, req *tcp.ForwarderRequest) *ConnRequest {
	src, dst := endsOf(req.ID())
	return &ConnRequest{Src: src, Dst: dst, s: s, req: req}
}

// endsOf translates the two ends; the stack's is the destination.
func endsOf(id stack.TransportEndpointID) (src, dst netip.AddrPort) {
	return netip.AddrPortFrom(addrOf(id.RemoteAddress), id.RemotePort), netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort)
}

// Reject resets the connection.
func (i *ConnRequest) Reject() {
	i.s.memory.release(i.share)
	i.finish(withReset)
}

// Drop leaves the request without an answer, as if it had been lost. Its sender repeats it.
func (i *ConnRequest) Drop() {
	i.s.memory.release(i.share)
	i.finish(withoutReset)
}

// completion is how a request ends that did not lead to a connection, or has led to one.
type completion int

const (
	withoutReset completion = iota
	withReset
)

// finish gives up the place of the request.
func (i *ConnRequest) finish(how completion) {
	id := i.req.ID()
	i.req.Complete(how == withReset)
	i.s.synQueue.done(id)
}

// Accept completes the handshake.
func (i *ConnRequest) Accept() (*Conn, error) {
	defer i.finish(withoutReset)
	wq := new(waiter.Queue)
	ep, terr := i.completeHandshake(wq)
	if terr != nil {
		i.s.memory.release(i.share)
		return nil, opError(opAccept, "tcp", net.TCPAddrFromAddrPort(i.Dst), net.TCPAddrFromAddrPort(i.Src), errorOf(terr))
	}
	setConnOptions(ep)
	i.share.apply(ep)
	return newConn(i.s, i.share, ep, wq, i.s.mss(i.Dst.Addr())), nil
}

// completeHandshake waits for the other side. Close of the stack ends it.
func (i *ConnRequest) completeHandshake(wq *waiter.Queue) (tcpip.Endpoint, tcpip.Error) {
	i.s.accepting.Add(1)
	defer i.s.accepting.Add(-1)
	if i.s.closed.Load() {
		return nil, &tcpip.ErrAborted{}
	}
	return i.req.CreateEndpoint(wq)
}
