package node

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"ginnel/key"
	"ginnel/transport"
	"ginnel/userstack"
)

// What the stack and the transport tell each other about the paths to peers. The stack knows
// addresses, the transport keys; the device knows which peer has an address.

// pathChanged tells the stack that the path to a peer has another round-trip time and capacity now.
func (p *dataPlane) pathChanged(k key.NodePublic) {
	p.stack.PathChanged(func(a netip.Addr) bool { return p.isOwner(k, a) })
}

// peerBack has connections to a peer retransmit at once, because the peer may have come back to its
// relay.
func (p *dataPlane) peerBack(k key.NodePublic) {
	p.stack.PathBack(func(a netip.Addr) bool { return p.isOwner(k, a) })
}

func (p *dataPlane) isOwner(k key.NodePublic, a netip.Addr) bool {
	owner, ok := p.peers.dev.Owner(a)
	return ok && owner == k
}

// relayBack has connections through relays retransmit at once instead of after their back-off:
// those of this node, and those of peers that send to it.
func (p *dataPlane) relayBack() {
	peers := p.conn.Status().Peers
	p.stack.PathBack(func(a netip.Addr) bool {
		owner, ok := p.peers.dev.Owner(a)
		return ok && !peers[owner].Trusted
	})
	p.conn.GreetByRelay()
}

// reportTraffic passes the stack's measurements on to the transport, which compares the direct path
// of each peer with its relay.
func (p *dataPlane) reportTraffic(all map[netip.Addr]userstack.Traffic, interval time.Duration) {
	sums := make(map[key.NodePublic]transport.Traffic)
	for a, t := range all {
		k, ok := p.peers.dev.Owner(a)
		if !ok {
			continue
		}
		sum := sums[k]
		sums[k] = transport.Traffic{Key: k, Packets: sum.Packets + t.Packets, Lost: sum.Lost + t.Lost,
			Delivered: sum.Delivered + t.Delivered, Interval: interval}
	}
	p.conn.Report(slices.Collect(maps.Values(sums)))
}
