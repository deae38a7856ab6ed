package userstack

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"ginnel/internal/deepstack"
)

// Connections that are decided about before they are answered, so that who asks learns whether what is behind is there:
// those to addresses behind this host, and those to ports of its own that a Gate holds.

const (
	// maxIncoming connections may wait for an answer, of either sort; the SYNs of further ones are dropped.
	maxIncoming = 1024

	// maxAtGate of them may be for one port, so that a port whose answers take long leaves room to others; further ones
	// are refused.
	maxAtGate = 256
)

// incomingPatience is how long one of them waits for memory before it is refused.
const incomingPatience = 10 * time.Second

// setIncoming has the stack ask the gates about what has no listener.
func (s *Stack) setIncoming() {
	s.gated = tcp.NewForwarder(s.gv, s.memory.listenSize(), maxIncoming, s.ask)
	s.gv.SetTransportProtocolHandler(tcp.ProtocolNumber, s.takeSegment)
}

// takeSegment gets the segments that belong to no connection or listener. Where it reports false they are refused.
func (s *Stack) takeSegment(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	if s.dev.isOwn(addrOf(id.LocalAddress)) {
		_, held := s.gates.Load(id.LocalPort)
		return held && s.gated.HandlePacket(id, pkt)
	}
	return s.foreign != nil && s.foreign.HandlePacket(id, pkt)
}

// ask is called by the forwarder, each time in a goroutine of its own.
func (s *Stack) ask(req *tcp.ForwarderRequest) {
	deepstack.Grow()
	in := newIncoming(s, req)
	g, held := s.gates.Load(in.Dst.Port())
	if !held { // any more
		in.Refuse()
		return
	}
	in.gate = g.(*Gate)
	if in.gate.waiting.Add(1) > maxAtGate {
		in.Refuse()
		return
	}
	in.gate.take(in)
}

// Gate holds a TCP port on all addresses of a stack. Make it with OpenGate.
type Gate struct {
	s    *Stack
	ep   tcpip.Endpoint // bound and no more, so that nobody else takes the port
	port uint16
	take func(*Incoming)
	once sync.Once

	waiting atomic.Int64 // connections without an answer
}

// OpenGate has take called, each time in a goroutine of its own, for each connection that somebody wants to port and the
// filter allows; it has to accept or refuse it.
func (s *Stack) OpenGate(port uint16, take func(*Incoming)) (*Gate, error) {
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
	g := &Gate{s: s, ep: ep, port: port, take: take}
	s.gates.Store(port, g)
	return g, nil
}

// Close gives up the port. Connections that were accepted live on.
func (g *Gate) Close() error {
	g.once.Do(func() {
		g.s.gates.Delete(g.port)
		g.ep.Close()
	})
	return nil
}

// Incoming is a connection that somebody wants and that nobody has answered yet.
type Incoming struct {
	Src, Dst netip.AddrPort
	s        *Stack
	req      *tcp.ForwarderRequest
	gate     *Gate // nil for those to foreign addresses
}

func newIncoming(s *Stack, req *tcp.ForwarderRequest) *Incoming {
	src, dst := flowOf(req.ID())
	return &Incoming{Src: src, Dst: dst, s: s, req: req}
}

// flowOf translates the two ends; the stack's is the destination.
func flowOf(id stack.TransportEndpointID) (src, dst netip.AddrPort) {
	return netip.AddrPortFrom(addrOf(id.RemoteAddress), id.RemotePort), netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort)
}

// Refuse resets the connection.
func (i *Incoming) Refuse() {
	i.req.Complete(true)
	i.leave()
}

// leave gives up the place among those that wait.
func (i *Incoming) leave() {
	if i.gate != nil {
		i.gate.waiting.Add(-1)
	}
}

// Accept completes the handshake, once there is memory for the connection.
func (i *Incoming) Accept() (*Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), incomingPatience)
	defer cancel()
	g, err := i.s.memory.take(ctx, i.s.dev.closec)
	if err != nil {
		i.Refuse()
		return nil, opError(opAccept, "tcp", net.TCPAddrFromAddrPort(i.Dst), net.TCPAddrFromAddrPort(i.Src), err)
	}
	defer i.leave()
	defer i.req.Complete(false)
	wq := new(waiter.Queue)
	ep, terr := i.shakeHands(wq)
	if terr != nil {
		i.s.memory.give(g)
		return nil, opError(opAccept, "tcp", net.TCPAddrFromAddrPort(i.Dst), net.TCPAddrFromAddrPort(i.Src), errorOf(terr))
	}
	setConnOptions(ep)
	g.apply(ep)
	return newConn(i.s, g, ep, wq, i.s.mss(i.Dst.Addr())), nil
}

// shakeHands waits for the other side. Close of the stack ends it.
func (i *Incoming) shakeHands(wq *waiter.Queue) (tcpip.Endpoint, tcpip.Error) {
	i.s.accepting.Add(1)
	defer i.s.accepting.Add(-1)
	if i.s.closed.Load() {
		return nil, &tcpip.ErrAborted{}
	}
	return i.req.CreateEndpoint(wq)
}
