package node

import (
	"net/netip"
	"slices"
	"time"

	"ginnel/key"
)

// The name of a plain peer's endpoint may have several addresses, of both families, and some of
// them may be dead. Until the first handshake is answered they are tried one after the other, as
// addresses of TCP destinations are (RFC 8305).

const (
	secondRound = time.Second      // before the next address once each had its raceDelay: a slow path needs more than that
	raceTime    = 10 * time.Second // after which keepEndpoints goes on, at its own pace
)

// setContenders makes addrs what raceEndpoint tries, beginning after the one in use. A race that is
// under way goes on with what it has.
func (n *Node) setContenders(p *Peer, addrs []netip.Addr, inUse netip.AddrPort) {
	var all []netip.AddrPort
	for _, a := range interleave(addrs) {
		all = append(all, netip.AddrPortFrom(a.Unmap(), p.Endpoint.Port))
	}
	if i := slices.Index(all, inUse); i > 0 {
		all = slices.Concat(all[i:], all[:i])
	}
	if len(all) < 2 {
		n.contenders.Delete(p.Key)
		return
	}
	n.contenders.Store(p.Key, all)
	if p.Keepalive > 0 {
		n.raceEndpoint(p) // WireGuard speaks first
	}
}

// raceEndpoint is called when something is sent to a peer. It is cheap if there is nothing to try.
func (n *Node) raceEndpoint(p *Peer) {
	if p == nil || !p.Plain {
		return
	}
	if all, ok := n.contenders.LoadAndDelete(p.Key); ok {
		n.spawn(func() { n.tryEndpoints(p.Key, all.([]netip.AddrPort)) })
	}
}

// tryEndpoints moves a peer from address to address until a handshake is answered. WireGuard has
// begun one with the first. Each beginning makes the answer to the one before worthless, so the
// second round is slower.
func (n *Node) tryEndpoints(k key.NodePublic, all []netip.AddrPort) {
	begun := time.Now()
	timer := time.NewTimer(raceDelay)
	defer timer.Stop()
	next := 1
	for ; time.Since(begun) < raceTime; next++ {
		select {
		case <-timer.C:
		case <-n.closec:
			return
		}
		if s, ok := n.wg0.dev.PeerState(k); !ok || !s.Handshake.IsZero() {
			return
		}
		n.wg0.setEndpoint(k, all[next%len(all)])
		n.wg0.dev.StartHandshake(k)
		if next < len(all)-1 {
			timer.Reset(raceDelay)
		} else {
			timer.Reset(secondRound)
		}
	}
	last := (next - 1) % len(all)
	n.contenders.Store(k, slices.Concat(all[last:], all[:last])) // for the next who wants something of the peer
}
