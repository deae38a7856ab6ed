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

// routedNIC is a second interface of a stack with a Router. It receives the packets for addresses
// behind this host and accepts every destination address. The first interface must not, because a
// socket on the unspecified address means the stack's own addresses.
const routedNIC = nicID + 1

// Router handles connections and datagrams to addresses behind this host, for which the stack
// answers. They have passed the filter.
type Router struct {
	// TCP is called for each connection request, in a goroutine of its own. It must accept, reject
	// or drop the request.
	TCP func(*ConnRequest)
	// UDP is called for each new pair of addresses, with a conn. It must not block.
	UDP func(src, dst netip.AddrPort, c net.Conn)
}

// setRouter makes r handle the packets for foreign addresses.
func (s *Stack) setRouter(r Router) error {
	if err := s.addNIC(routedNIC, &s.dev.routedDispatcher); err != nil {
		return err
	}
	if terr := s.gv.SetPromiscuousMode(routedNIC, true); terr != nil {
		return fmt.Errorf("userstack: enabling promiscuous mode: %s", terr)
	}
	if terr := s.gv.SetSpoofing(routedNIC, true); terr != nil {
		return fmt.Errorf("userstack: enabling spoofing: %s", terr)
	}
	s.routedForwarder = s.newForwarder(r.TCP)
	forUDP := udp.NewForwarder(s.gv, func(req *udp.ForwarderRequest) bool { return s.routeUDP(r, req) })
	handle := func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		// For an own address there is no socket, so gVisor answers port unreachable.
		return !s.dev.isOwn(addrOf(id.LocalAddress)) && forUDP.HandlePacket(id, pkt)
	}
	s.gv.SetTransportProtocolHandler(udp.ProtocolNumber, handle)
	s.dev.isRouter.Store(true)
	return nil
}

// bindToOwn keeps packets for foreign addresses away from an endpoint.
func (s *Stack) bindToOwn(ep tcpip.Endpoint) tcpip.Error {
	if !s.dev.isRouter.Load() {
		return nil
	}
	return ep.SocketOptions().SetBindToDevice(int32(nicID))
}

// nicSelector passes inbound packets to the interface of their destination.
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

// DeliverLinkPacket implements stack.NetworkDispatcher. There are no link headers.
func (nicSelector) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

// deliverLocally returns an outbound packet for one of the stack's own addresses to the stack. With
// a Router gVisor's HandleLocal cannot be used: it would take every source for its own address and
// drop the packet.
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

// ipHeaderSize is the size of the shortest IP header of a protocol.
func ipHeaderSize(proto tcpip.NetworkProtocolNumber) int {
	if proto == header.IPv4ProtocolNumber {
		return header.IPv4MinimumSize
	}
	return header.IPv6MinimumSize
}

// destination is the destination address in the IP header b.
func destination(proto tcpip.NetworkProtocolNumber, b []byte) tcpip.Address {
	if proto == header.IPv4ProtocolNumber {
		return header.IPv4(b).DestinationAddress()
	}
	return header.IPv6(b).DestinationAddress()
}

// routeUDP makes a conn for the first datagram between two addresses.
func (s *Stack) routeUDP(r Router, req *udp.ForwarderRequest) (handled bool) {
	src, dst := endsOf(req.ID())
	wq := new(waiter.Queue)
	ep, terr := req.CreateEndpoint(wq)
	if terr != nil {
		_, twice := terr.(*tcpip.ErrPortInUse) // two datagrams came at once, and the other one made the conn
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
