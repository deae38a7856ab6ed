package node

import (
	"net/netip"
	"slices"
	"time"

	"ginnel/key"
)

// endpointRaces try the addresses of plain peers until the first handshake. The name of an endpoint
// may have several addresses, of both families, and some of them may not work. They are tried one
// after the other, as the addresses of a TCP destination are (RFC 8305).
type endpointRaces struct {
	life  *lifetime
	peers *peerSet
	next  peerMap[[]netip.AddrPort] // addresses for a peer's next race, the one in use first
}

const (
	// secondRound is the time for an address that was tried for raceDelay before: the path to it
	// may be slow.
	secondRound = time.Second
	// raceTime bounds a race. After it, endpointKeeper goes on at its own pace.
	raceTime = 10 * time.Second
)

// set makes addrs the addresses for the next race, beginning with the one in use. A running race
// keeps its own.
func (r *endpointRaces) set(p *Peer, addrs []netip.Addr, inUse netip.AddrPort) {
	var all []netip.AddrPort
	for _, a := range interleave(addrs) {
		all = append(all, netip.AddrPortFrom(a.Unmap(), p.Endpoint.Port))
	}
	if i := slices.Index(all, inUse); i > 0 {
		all = slices.Concat(all[i:], all[:i])
	}
	if len(all) < 2 {
		r.next.delete(p.Key)
		return
	}
	r.next.store(p.Key, all)
	if p.Keepalive > 0 {
		r.start(p) // WireGuard itself sends to the peer, so nothing else may start the race
	}
}

// start is called when something is sent to a peer; nil is this node. It is cheap if there is
// nothing to try.
func (r *endpointRaces) start(p *Peer) {
	if p == nil || !p.Plain {
		return
	}
	if all, ok := r.next.loadAndDelete(p.Key); ok {
		r.life.spawn(func() { r.run(p.Key, all) })
	}
}

// run gives a peer one address after the other until a handshake is completed. WireGuard has sent
// an initiation to the first. Each further initiation makes a response to the one before worthless,
// so that the second round is slower.
func (r *endpointRaces) run(k key.NodePublic, all []netip.AddrPort) {
	begun := time.Now()
	timer := time.NewTimer(raceDelay)
	defer timer.Stop()
	next := 1
	for ; time.Since(begun) < raceTime; next++ {
		select {
		case <-timer.C:
		case <-r.life.ctx.Done():
			return
		}
		if !r.peers.awaitsHandshake(k) {
			return
		}
		r.peers.setEndpoint(k, all[next%len(all)])
		r.peers.startHandshake(k)
		if next < len(all)-1 {
			timer.Reset(raceDelay)
		} else {
			timer.Reset(secondRound)
		}
	}
	last := (next - 1) % len(all)
	r.next.store(k, slices.Concat(all[last:], all[:last])) // for the next race, when something is sent again
}
