package node

import (
	"encoding/hex"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"ginnel/key"
	"ginnel/transport"
	"ginnel/userstack"
	"ginnel/wireguard"
)

// tunnels is WireGuard and what it was told. A peer that takes part in discovery is told of only
// when there is something to send to it or it shows itself: a network may have thousands.
type tunnels struct {
	dev    *wireguard.Device
	conn   *transport.Conn
	active sync.Map // key.NodePublic to struct{}: peers that the device has; read for each datagram

	mu      sync.Mutex // held while the device is told
	peers   map[key.NodePublic]Peer
	dormant map[key.NodePublic]*Peer // of the map, unknown to the device
	wanted  map[key.NodePublic]bool  // peers that this node has begun to speak with, and not they with us
}

// stackTun is the stack as WireGuard sees it.
type stackTun struct{ *userstack.Device }

// Queues implements wireguard.Tun.
func (t stackTun) Queues() (all []wireguard.Queue) {
	for _, q := range t.Device.Queues() {
		all = append(all, q)
	}
	return all
}

// configure makes peers, which must not change any more, the whole set. It tells the device only
// what changed.
func (w *tunnels) configure(peers []Peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next, dormant := make(map[key.NodePublic]Peer), make(map[key.NodePublic]*Peer)
	for i := range peers {
		p := &peers[i]
		if _, active := w.peers[p.Key]; active || p.Plain {
			next[p.Key] = *p
		} else {
			dormant[p.Key] = p
		}
	}
	w.replace(next, dormant)
}

// wake makes sure that the device knows a peer of the map. It reports whether it did not.
func (w *tunnels) wake(k key.NodePublic) (woken bool) {
	if _, ok := w.active.Load(k); ok {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.dormant[k]
	if !ok {
		return false
	}
	w.tell(p)
	delete(w.dormant, k)
	w.peers[k] = *p
	w.active.Store(k, struct{}{})
	return true
}

// want is wake for a peer that we begin to speak with. If both sides began anew whatever they
// began, neither would ever be answered.
func (w *tunnels) want(k key.NodePublic) (woken bool) {
	if !w.wake(k) {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wanted == nil {
		w.wanted = make(map[key.NodePublic]bool)
	}
	w.wanted[k] = true
	return true
}

// replace makes the device know exactly next.
func (w *tunnels) replace(next map[key.NodePublic]Peer, dormant map[key.NodePublic]*Peer) {
	for k := range w.peers {
		if _, ok := next[k]; !ok {
			w.active.Delete(k)
			delete(w.wanted, k)
			w.dev.RemovePeer(k)
		}
	}
	for _, p := range next {
		old, known := w.peers[p.Key]
		if known && old.Plain != p.Plain {
			w.dev.RemovePeer(p.Key) // what is known of its endpoint is of another kind
			known = false
		}
		if !known || changed(&old, &p) {
			w.tell(&p)
		}
		if ap, ok := p.Endpoint.addrPort(); ok && p.Plain && (!known || old.Endpoint != p.Endpoint) {
			w.setEndpoint(p.Key, ap)
		}
		w.active.Store(p.Key, struct{}{})
		switch {
		case known && restarted(&old, &p):
			w.dev.ExpireKeypairs(p.Key)
		case known && w.wanted[p.Key] && old.Region == 0 && p.Region != 0 && w.waits(p.Key):
			w.dev.StartHandshake(p.Key) // what was sent before had nowhere to go
		}
	}
	w.peers, w.dormant = next, dormant
}

// tell tells the device of p. Those that take part in discovery have an endpoint that stands for
// the peer, and the transport knows the way; plain ones roam.
func (w *tunnels) tell(p *Peer) {
	c := wireguard.Peer{Key: p.Key, PresharedKey: p.PresharedKey, AllowedIPs: p.Addresses, Keepalive: p.Keepalive, Roams: p.Plain}
	if !p.Plain {
		c.Endpoint = w.endpoint(hex.EncodeToString(p.Key[:]))
	}
	w.dev.SetPeer(c)
}

// endpoint is what the transport makes of text, nil for what it does not know.
func (w *tunnels) endpoint(text string) conn.Endpoint {
	ep, err := w.conn.ParseEndpoint(text)
	if err != nil {
		return nil
	}
	return ep
}

// setEndpoint moves a plain peer.
func (w *tunnels) setEndpoint(k key.NodePublic, ap netip.AddrPort) {
	if ep := w.endpoint(ap.String()); ep != nil {
		w.dev.SetEndpoint(k, ep)
	}
}

// pathChanged tells the stack that the round-trip time to a peer, and what the path to it carries,
// are others now.
func (n *Node) pathChanged(k key.NodePublic) {
	n.stack.PathChanged(func(a netip.Addr) bool {
		owner, ok := n.wg0.dev.Owner(a)
		return ok && owner == k
	})
}

// peerBack has connections with a peer go on that may be back at its relay.
func (n *Node) peerBack(k key.NodePublic) {
	n.stack.PathBack(func(a netip.Addr) bool {
		owner, ok := n.wg0.dev.Owner(a)
		return ok && owner == k
	})
}

// reportTraffic tells the transport how well the paths to peers carry what connections send, so
// that it can compare them with the relay.
func (n *Node) reportTraffic(all map[netip.Addr]userstack.Traffic, interval time.Duration) {
	sums := make(map[key.NodePublic]transport.Traffic)
	for a, t := range all {
		k, ok := n.wg0.dev.Owner(a)
		if !ok {
			continue
		}
		sum := sums[k]
		sums[k] = transport.Traffic{Key: k, Packets: sum.Packets + t.Packets, Lost: sum.Lost + t.Lost,
			Delivered: sum.Delivered + t.Delivered, Interval: interval}
	}
	n.conn.Report(slices.Collect(maps.Values(sums)))
}

// waits reports whether a peer that somebody wants to speak with has not answered yet.
func (w *tunnels) waits(k key.NodePublic) bool {
	s, ok := w.dev.PeerState(k)
	return ok && s.Handshake.IsZero()
}

// restarted reports whether the peer has lost its memory, and with it its session: a node makes a
// new disco key whenever it starts. WireGuard alone would notice only when nothing has come back
// for 15 s.
func restarted(old, p *Peer) bool {
	return !old.Disco.IsZero() && !p.Disco.IsZero() && old.Disco != p.Disco
}

// changed reports whether the device has to be told of p anew.
func changed(old, p *Peer) bool {
	return !slices.Equal(old.Addresses, p.Addresses) || old.PresharedKey != p.PresharedKey || old.Keepalive != p.Keepalive
}
