package userstack

import (
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// routedNIC is the interface of a router at which packets for foreign addresses arrive. It takes
// all addresses for its own, which the other must not: whoever listens on all addresses means those
// of the host.
const routedNIC = nicID + 1

// Router takes what is for addresses behind this host: the stack then speaks for them too. What
// reaches it has passed the filter.
type Router struct {
	// TCP is called, each time in a goroutine of its own, for a connection that somebody wants; it
	// has to accept, refuse or drop it.
	TCP func(*ConnRequest)
	// UDP is called with a conn for each new pair of addresses. It must not block.
	UDP func(src, dst netip.AddrPort, c net.Conn)
}

// setRouter has r take what is not for the stack's own addresses.
func (s *Stack) setRouter(r Router) error {
	if err := s.addNIC(routedNIC, &s.dev.routedDispatcher); err != nil {
		return err
	}
	if terr := s.gv.SetPromiscuousMode(routedNIC, true); terr != nil {
		return fmt.Errorf("userstack: taking foreign addresses: %s", terr)
	}
	if terr := s.gv.SetSpoofing(routedNIC, true); terr != nil {
		return fmt.Errorf("userstack: answering for foreign addresses: %s", terr)
	}
	s.routedForwarder = s.newForwarder(r.TCP)
	forUDP := udp.NewForwarder(s.gv, func(req *udp.ForwarderRequest) bool { return s.routeUDP(r, req) })
	s.gv.SetTransportProtocolHandler(udp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		return !s.dev.isOwn(addrOf(id.LocalAddress)) && forUDP.HandlePacket(id, pkt) // nobody listens on our own, and that is the answer
	})
	s.dev.isRouter.Store(true)
	return nil
}

// bindToOwn keeps an endpoint that takes what comes from foreign destinations.
func (s *Stack) bindToOwn(ep tcpip.Endpoint) tcpip.Error {
	if !s.dev.isRouter.Load() {
		return nil
	}
	return ep.SocketOptions().SetBindToDevice(int32(nicID))
}

// nicSelector hands packets to the interface that they are for.
type nicSelector struct{ d *Device }

// DeliverNetworkPacket implements stack.NetworkDispatcher.
func (s nicSelector) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	up := &s.d.dispatcher
	if b, ok := pkt.Data().PullUp(ipHeaderSize(proto)); ok && !s.d.isOwn(addrOf(destination(proto, b))) {
		up = &s.d.routedDispatcher
	}
	if p := up.Load(); p != nil {
		(*p).DeliverNetworkPacket(proto, pkt)
	}
}

// DeliverLinkPacket implements stack.NetworkDispatcher; there are no link headers.
func (nicSelector) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

// deliverLocally returns a packet for one of our own addresses to the stack. A stack that is a router as well
// cannot do so itself: gVisor would then take every source for its own and drop the packet.
func (l link) deliverLocally(pkt *stack.PacketBuffer) bool {
	up := l.d.dispatcher.Load()
	if up == nil || !l.d.isOwn(addrOf(destination(pkt.NetworkProtocolNumber, pkt.NetworkHeader().Slice()))) {
		return false
	}
	copied := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: pkt.ToBuffer()})
	defer copied.DecRef()
	(*up).DeliverNetworkPacket(pkt.NetworkProtocolNumber, copied)
	return true
}

func ipHeaderSize(proto tcpip.NetworkProtocolNumber) int {
	if proto == header.IPv4ProtocolNumber {
		return header.IPv4MinimumSize
	}
	return header.IPv6MinimumSize
}

// destination is that of a packet that begins with b.
func destination(proto tcpip.NetworkProtocolNumber, b []byte) tcpip.Address {
	if proto == header.IPv4ProtocolNumber {
		return header.IPv4(b).DestinationAddress()
	}
	return header.IPv6(b).DestinationAddress()
}

// routeUDP makes a conn for the sender and destination of a datagram.
func (s *Stack) routeUDP(r Router, req *udp.ForwarderRequest) (handled bool) {
	src, dst := endsOf(req.ID())
	wq := new(waiter.Queue)
	ep, terr := req.CreateEndpoint(wq)
	if terr != nil {
		_, twice := terr.(*tcpip.ErrPortInUse) // two datagrams came at once: the conn of the other will do
		return twice
	}
	c := &PacketConn{s: s, local: dst, remote: src}
	c.attach(s, ep, wq)
	if s.closed.Load() {
		c.Close()
		return true
	}
	r.UDP(src, dst, c)
	return true
}
