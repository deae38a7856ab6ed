package transport

import (
	"context"
	"errors"
	"iter"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ginnel/internal/disco"
	"ginnel/key"
)

// Status is a snapshot of what the transport knows.
type Status struct {
	Endpoints     []netip.AddrPort // our own, as peers are told
	Global4       netip.AddrPort   // our address as STUN servers see it; invalid if unknown
	Global6       netip.AddrPort
	MappingVaries bool                  // servers see different addresses, so the NAT is hard to traverse
	Latency       map[int]time.Duration // of each region that answered STUN
	Measured      bool                  // Latency belongs to a round that has ended
	Peers         map[key.NodePublic]PeerStatus
	Dropped       map[string]uint64 // packets, by reason
}

// PeerStatus is the path to one peer.
type PeerStatus struct {
	Direct  netip.AddrPort // address in use; invalid: none
	Trusted bool           // packets take Direct alone, not the relay too
	Lossy   bool           // Direct works, but the relay carries much more and is used
	Latency time.Duration  // of Direct, from the last Pong
	Region  int            // of the peer's home relay; 0: unknown
	Active  bool           // there was traffic within the last 45 s
}

// Status returns the present state. It is empty after Close.
func (c *Conn) Status() Status {
	var s Status
	if !c.call(func(l *loop) { s = l.snapshot() }) {
		return Status{} // the loop may still be writing s
	}
	return s
}

// Watch yields the state now and after changes. Of several changes it yields the last. It ends with
// ctx or Close.
func (c *Conn) Watch(ctx context.Context) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		for {
			changec := c.status.wait()
			var s Status
			if !c.call(func(l *loop) { s = l.snapshot() }) || !yield(s) {
				return
			}
			select {
			case <-changec:
			case <-ctx.Done():
				return
			case <-c.closec:
				return
			}
		}
	}
}

func (l *loop) snapshot() Status {
	now := time.Now()
	r := l.prober.current()
	s := Status{
		Endpoints:     slices.Clone(l.own),
		Global4:       r.global4,
		Global6:       r.global6,
		MappingVaries: r.varies,
		Latency:       maps.Clone(r.latency),
		Measured:      !l.prober.running && !r.at.IsZero(),
		Peers:         make(map[key.NodePublic]PeerStatus, len(l.peers)),
		Dropped:       l.c.counters.snapshot(),
	}
	for k, p := range l.peers {
		s.Peers[k] = PeerStatus{Direct: p.path.best.addr, Trusted: p.path.trusted(now) && !p.quality.relayed(),
			Lossy: p.quality.relayed(), Latency: p.path.best.latency, Region: p.Region, Active: p.path.active}
	}
	return s
}

func (c *counters) snapshot() map[string]uint64 {
	return map[string]uint64{
		"udp_send":        c.udpSendDrops.Load(),
		"udp_receive":     c.udpReceiveErrors.Load(),
		"peer_relay":      c.geneve.Load(),
		"busy":            c.loopFull.Load(),
		"stun_unasked":    c.stunUnasked.Load(),
		"disco_unknown":   c.discoUnknown.Load(),
		"disco_bad":       c.discoBad.Load(),
		"relayed_unknown": c.relayedUnknown.Load(),
		"relayed_closed":  c.relayedClosed.Load(),
	}
}

// PingResult is the answer to a disco ping.
type PingResult struct {
	Latency time.Duration
	Addr    netip.AddrPort // address that answered directly; invalid: a relay delivered the answer
	Region  int            // of that relay
}

// ErrUnknownPeer is returned for a key that no peer has, and for a peer that takes no part in
// discovery.
var ErrUnknownPeer = errors.New("transport: no such peer in discovery")

// Ping pings a peer by every path that may work and returns the first answer. It counts as traffic,
// so it starts discovery too.
func (c *Conn) Ping(ctx context.Context, k key.NodePublic) (PingResult, error) {
	var ids []disco.TxID
	answers := make(chan PingResult, maxCandidates+2)
	known := false
	if !c.call(func(l *loop) { ids, known = l.pingPeer(k, answers) }) {
		return PingResult{}, net.ErrClosed
	}
	if !known {
		return PingResult{}, ErrUnknownPeer
	}
	defer c.call(func(l *loop) {
		for _, id := range ids {
			delete(l.waiting, id)
		}
	})
	select {
	case r := <-answers:
		return r, nil
	case <-ctx.Done():
		return PingResult{}, ctx.Err()
	case <-c.closec:
		return PingResult{}, net.ErrClosed
	}
}

// pingPeer sends the pings of one call of Ping and registers the channel of their answers.
func (l *loop) pingPeer(k key.NodePublic, answers chan<- PingResult) (ids []disco.TxID, known bool) {
	p := l.peers[k]
	if p == nil || l.sharedKey(p) == nil {
		return nil, false
	}
	now := time.Now()
	p.ep.awake.Store(true)
	direct := p.path.trusted(now)
	e := p.path.probe(now)
	for _, out := range e.pings[:min(len(e.pings), maxCandidates+1)] {
		ids = append(ids, out.txid)
	}
	if id, ok := p.path.relayPing(now); ok && !direct {
		ids = append(ids, id)
		b := disco.Seal(nil, l.c.discoPublic, l.sharedKey(p), &disco.Ping{TxID: id, NodeKey: l.nodeKey})
		l.sendRelayed(p.Region, p.Key, b)
	}
	for _, id := range ids {
		l.waiting[id] = answers
	}
	l.apply(now, p, e)
	return ids, true
}

// broadcast wakes all goroutines that wait for a change.
type broadcast struct {
	mu sync.Mutex
	c  chan struct{}
}

func (b *broadcast) init() { b.c = make(chan struct{}) }

// wait returns a channel that is closed at the next change.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.c
}

func (b *broadcast) changed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.c)
	b.c = make(chan struct{})
}
