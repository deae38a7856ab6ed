package simnet

import (
	"fmt"
	"net/netip"
	"time"
)

const defaultMTU = 1500

// Link is what lies between a host or NAT and the network it is attached to. It is the same in both
// directions. The zero value is a perfect one.
type Link struct {
	Delay time.Duration
	Loss  float64 // the part of datagrams that is lost, from 0 to 1
	MTU   int     // the largest IP packet that passes, larger ones vanish; 0 means 1500
	Down  bool    // nothing sets out any more; what has set out arrives
}

// crossLocked takes p over the link, unless it is lost there.
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

// device is what has an address: a Host or a NAT.
type device interface {
	// linkLocked returns the link to the device for what is sent to addr.
	linkLocked(addr netip.Addr) Link
	// receiveLocked takes a packet that has crossed the link.
	receiveLocked(now time.Time, p *packet)
}

// segment is a network on which devices reach each other by their addresses: the internet, or the
// inside of a NAT.
type segment struct {
	devices map[netip.Addr]device
	gateway *NAT // where all other packets go; nil for the internet
}

// attachLocked gives addr to d. If a NAT leaves such addresses as they are, they lead to it from
// its outside.
func (s *segment) attachLocked(addr netip.Addr, d device) {
	if _, taken := s.devices[addr]; taken || !addr.IsValid() || addr.Zone() != "" || addr.Is4In6() {
		panic(fmt.Sprintf("simnet: address %v cannot be used, or is in use already", addr))
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

// deliverLocked sends p over the link to the device that has its destination, if there is one.
func (n *Net) deliverLocked(now time.Time, s *segment, p *packet) bool {
	d, ok := s.devices[p.dst.Addr()]
	if ok {
		n.crossLocked(now, d.linkLocked(p.dst.Addr()), p, func(now time.Time) { d.receiveLocked(now, p) })
	}
	return ok
}

// forwardLocked takes p on from a segment that it has reached from within.
func (n *Net) forwardLocked(now time.Time, s *segment, p *packet) {
	switch {
	case n.deliverLocked(now, s, p):
	case s.gateway != nil:
		s.gateway.sendLocked(now, p)
	default:
		n.stats.NoRoute++
	}
}
