package node

import (
	"encoding/hex"
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

// peerSet is the WireGuard device and the peers that it has been given. This file alone speaks the
// text form of endpoints, which transport.Conn reads and the device reports.
//
// A peer that takes part in discovery is added to the device only when this node sends to it or
// hears from it, because a network may have thousands. Until then it is dormant.
type peerSet struct {
	dev    *wireguard.Device
	conn   *transport.Conn
	active peerMap[struct{}] // the peers of the device, as in peers; read for each datagram

	mu      sync.Mutex // also held while the device changes, so that its changes are in order
	peers   map[key.NodePublic]Peer
	dormant map[key.NodePublic]*Peer
	dialled map[key.NodePublic]bool // active peers that were woken by this node's own traffic
}

// stackTun adapts the stack's device to wireguard.Tun.
type stackTun struct{ *userstack.Device }

// Queues implements wireguard.Tun.
func (t stackTun) Queues() (all []wireguard.Queue) {
	for _, q := range t.Device.Queues() {
		all = append(all, q)
	}
	return all
}

// session is what the device knows of a peer.
type session struct {
	endpoint  netip.AddrPort // of a plain peer; invalid if unknown, and for all other peers
	handshake time.Time      // when the last handshake was completed; zero: never
	rx, tx    uint64         // bytes of all WireGuard messages
}

func newSession(s wireguard.PeerState) session {
	ap, _ := netip.ParseAddrPort(s.Endpoint) // fails for a peer key in hex, the endpoint of other than plain peers
	return session{endpoint: ap, handshake: s.Handshake, rx: s.Rx, tx: s.Tx}
}

// endpointText returns the endpoint as the status shows it; empty if unknown.
func (s session) endpointText() string {
	if !s.endpoint.IsValid() {
		return ""
	}
	return s.endpoint.String()
}

// session returns the session with a peer; false if the device does not have the peer.
func (s *peerSet) session(k key.NodePublic) (session, bool) {
	of, ok := s.dev.PeerState(k)
	return newSession(of), ok
}

func (s *peerSet) sessions() map[key.NodePublic]session {
	of := s.dev.PeerStates()
	all := make(map[key.NodePublic]session, len(of))
	for k, v := range of {
		all[k] = newSession(v)
	}
	return all
}

// awaitsHandshake reports whether the device has the peer and no handshake with it was ever
// completed.
func (s *peerSet) awaitsHandshake(k key.NodePublic) bool {
	of, ok := s.dev.PeerState(k)
	return ok && of.Handshake.IsZero()
}

// startHandshake sends a handshake initiation to a peer. A response to the initiation before it is
// worthless from then on.
func (s *peerSet) startHandshake(k key.NodePublic) { s.dev.StartHandshake(k) }

// configure makes peers, which must not change any more, the whole set. The device is told of the
// differences only.
func (s *peerSet) configure(peers []Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, dormant := make(map[key.NodePublic]Peer), make(map[key.NodePublic]*Peer)
	for i := range peers {
		p := &peers[i]
		if _, active := s.peers[p.Key]; active || p.Plain {
			next[p.Key] = *p
		} else {
			dormant[p.Key] = p
		}
	}
	s.replace(next, dormant)
}

// wake adds a dormant peer to the device. It reports whether the peer was dormant.
func (s *peerSet) wake(k key.NodePublic) (woken bool) {
	if s.active.has(k) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.dormant[k]
	if !ok {
		return false
	}
	s.add(p)
	delete(s.dormant, k)
	s.peers[k] = *p
	s.active.store(k, struct{}{})
	return true
}

// wakeToDial is wake for a peer that this node sends to first. Only such a peer gets further
// initiations: if both sides repeated theirs, each would void the response to the other's.
func (s *peerSet) wakeToDial(k key.NodePublic) (woken bool) {
	if !s.wake(k) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dialled == nil {
		s.dialled = make(map[key.NodePublic]bool)
	}
	s.dialled[k] = true
	return true
}

// replace makes next the peers of the device. The caller holds mu.
func (s *peerSet) replace(next map[key.NodePublic]Peer, dormant map[key.NodePublic]*Peer) {
	for k := range s.peers {
		if _, ok := next[k]; !ok {
			s.active.delete(k)
			delete(s.dialled, k)
			s.dev.RemovePeer(k)
		}
	}
	for _, p := range next {
		old, known := s.peers[p.Key]
		if known && old.Plain != p.Plain {
			s.dev.RemovePeer(p.Key) // the endpoint that it has is of the other kind
			known = false
		}
		if !known || changed(&old, &p) {
			s.add(&p)
		}
		if ap, ok := p.Endpoint.addrPort(); ok && p.Plain && (!known || old.Endpoint != p.Endpoint) {
			s.setEndpoint(p.Key, ap)
		}
		s.active.store(p.Key, struct{}{})
		switch {
		case known && restarted(&old, &p):
			s.dev.ExpireKeypairs(p.Key)
		case known && s.dialled[p.Key] && old.Region == 0 && p.Region != 0 && s.awaitsHandshake(p.Key):
			s.startHandshake(p.Key) // the initiations before had no relay to go through
		}
	}
	s.peers, s.dormant = next, dormant
}

// add gives the device a peer, or a known peer's new settings. The endpoint of a peer with
// discovery stands for the peer itself, and the transport chooses the path; a plain peer roams.
func (s *peerSet) add(p *Peer) {
	c := wireguard.Peer{Key: p.Key, PresharedKey: p.PresharedKey, AllowedIPs: p.Addresses, Keepalive: p.Keepalive,
		Roams: p.Plain}
	if !p.Plain {
		c.Endpoint = s.parseEndpoint(hex.EncodeToString(p.Key[:]))
	}
	s.dev.SetPeer(c)
}

// setEndpoint changes the address of a plain peer.
func (s *peerSet) setEndpoint(k key.NodePublic, ap netip.AddrPort) {
	if ep := s.parseEndpoint(ap.String()); ep != nil {
		s.dev.SetEndpoint(k, ep)
	}
}

// parseEndpoint returns nil for a peer that the transport does not have.
func (s *peerSet) parseEndpoint(text string) conn.Endpoint {
	ep, err := s.conn.ParseEndpoint(text)
	if err != nil {
		return nil
	}
	return ep
}

// restarted reports whether the peer has lost its sessions: a node makes a new disco key whenever
// it starts. WireGuard alone would notice only after 15 s without a packet from the peer.
func restarted(old, p *Peer) bool {
	return !old.Disco.IsZero() && !p.Disco.IsZero() && old.Disco != p.Disco
}

// changed reports whether the device's settings of a peer differ.
func changed(old, p *Peer) bool {
	return !slices.Equal(old.Addresses, p.Addresses) || old.PresharedKey != p.PresharedKey || old.Keepalive != p.Keepalive
}
