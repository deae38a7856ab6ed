package transport

import (
	"net/netip"
	"time"
)

// measured is an address of a peer with what a Pong proved about it. Here vni is always 0 and mtu
// always plainWireMTU. They are fields because the test vectors of the specification differ in
// them.
type measured struct {
	addr    netip.AddrPort
	vni     uint32 // 0: direct; else through a peer relay
	latency time.Duration
	mtu     int // of the whole IP packet on the wire, in bytes
}

func (m measured) isSet() bool { return m.addr.IsValid() }

// better reports whether a should replace b as the path in use (disco specification, section 3.7).
func better(a, b measured) bool {
	switch {
	case a.addr == b.addr && a.vni == b.vni:
		return a.mtu > b.mtu
	case !b.isSet():
		return true
	case !a.isSet():
		return false
	case (a.vni == 0) != (b.vni == 0):
		return a.vni == 0 // direct beats relayed, whatever the latency
	}
	var pa, pb int
	switch {
	case a.latency > b.latency && a.latency > 0:
		pb = percentFaster(b.latency, a.latency)
	case b.latency > 0:
		pa = percentFaster(a.latency, b.latency)
	}
	pa += placeBonus(a.addr.Addr())
	pb += placeBonus(b.addr.Addr())
	if pa <= 1 && pb == 0 {
		return false // 1 % is noise
	}
	return pa > pb
}

// percentFaster returns by how many percent of slow fast is faster. The ratio is truncated first,
// as the specification does.
func percentFaster(fast, slow time.Duration) int { return 100 - int(100*fast/slow) }

// placeBonus prefers near addresses, which are cheaper and more private at equal latency.
func placeBonus(a netip.Addr) (points int) {
	switch {
	case a.IsLoopback():
		points = 50
	case a.IsLinkLocalUnicast():
		points = 30
	case a.IsPrivate():
		points = 20
	}
	if a.Is6() {
		points += 10
	}
	return points
}
