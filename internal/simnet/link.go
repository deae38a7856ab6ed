package simnet

import (
	"fmt"
	"net/netip"
	"time"
)

const defaultMTU = 1500

// Link connects a host or a NAT to its network. It has the same properties in both directions. The
// zero value has no delay and loses nothing.
type Link struct {
	Delay time.Duration
	Loss  float64 // the fraction of datagrams that is lost, from 0 to 1
	MTU   int     // the largest IP packet; larger ones are dropped; 0 means 1500
	Down  bool    // new datagrams are dropped; those on their way arrive
}

// crossLocked sends p over the link, which may drop it, and calls arrive at its other end.
func (n *Net) crossLocked(now time.Time, l Link, p *packet, arrive func(now time.Time)) {
	mtu := l.MTU
	if mtu == 0 {
		mtu = defaultMTU
	}
	switch {
	case l.Down:
		n.stats.Down++
	case p.size() > mtu:
		n.stats.TooBig++
	case l.Loss > 0 && p.dice.Float64() < l.Loss:
		n.stats.Lost++
	default:
		n.afterLocked(now, l.Delay, arrive)
	}
}

// device has addresses: a Host or a NAT.
type device interface {
	// linkLocked returns the link to the device for packets to addr.
	linkLocked(addr netip.Addr) Link
	// receiveLocked handles a packet that has crossed the link.
	receiveLocked(now time.Time, p *packet)
}

// segment is a network on which devices reach each other by their addresses: the internet, or the
// inside of a NAT.
type segment struct {
	devices map[netip.Addr]device
	gateway *NAT // gets packets to all other addresses; nil for the internet
}

// attachLocked gives addr to d. If the gateway does not translate addr, addr leads to the gateway
// from its outside.
func (s *segment) attachLocked(addr netip.Addr, d device) {
	if _, taken := s.devices[addr]; taken || !addr.IsValid() || addr.Zone() != "" || addr.Is4In6() {
		panic(fmt.Sprintf("simnet: address %v is invalid or in use", addr))
	}
	s.devices[addr] = d
	if s.gateway != nil && !s.gateway.translates(addr) {
		s.gateway.outer.attachLocked(addr, s.gateway)
	}
}

// detachLocked undoes attachLocked.
func (s *segment) detachLocked(addr netip.Addr) {
	delete(s.devices, addr)
	if s.gateway != nil && !s.gateway.translates(addr) {
		s.gateway.outer.detachLocked(addr)
	}
}

// deliverLocked sends p to the device of s that has its destination. It returns false if there is
// none.
func (n *Net) deliverLocked(now time.Time, s *segment, p *packet) bool {
	d, ok := s.devices[p.dst.Addr()]
	if ok {
		n.crossLocked(now, d.linkLocked(p.dst.Addr()), p, func(now time.Time) { d.receiveLocked(now, p) })
	}
	return ok
}

// forwardLocked forwards p from segment s: to a device there, or to the gateway.
func (n *Net) forwardLocked(now time.Time, s *segment, p *packet) {
	switch {
	case n.deliverLocked(now, s, p):
	case s.gateway != nil:
		s.gateway.sendLocked(now, p)
	default:
		n.stats.NoRoute++
	}
}
