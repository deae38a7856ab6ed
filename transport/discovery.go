package transport

import (
	"net/netip"
	"time"

	"ginnel/internal/disco"
	"ginnel/key"
)

// handleDisco applies the acceptance rules of the disco specification, section 2.
func (l *loop) handleDisco(now time.Time, d discoPacket) {
	peers := l.byDisco[d.by.public]
	if len(peers) == 0 { // the last peer with the key was removed since the message arrived
		l.c.counters.discoUnknown.Add(1)
		return
	}
	switch m := d.m.(type) {
	case *disco.Ping:
		l.handlePing(now, d, m, peers)
	case *disco.Pong:
		l.handlePong(now, d, m, peers)
	case *disco.CallMeMaybe:
		l.handleCallMeMaybe(now, d, m)
	}
	// All other messages belong to peer relays and may be ignored (section 1.4).
}

// handlePing answers a ping on the path that it came by.
func (l *loop) handlePing(now time.Time, d discoPacket, m *disco.Ping, peers []*peer) {
	if !d.direct() {
		if p := l.peers[d.from]; p != nil && l.sharedKey(p) != nil {
			pong := disco.Seal(nil, l.c.discoPublic, l.sharedKey(p), &disco.Pong{TxID: m.TxID, Src: regionAddr(d.region)})
			l.sendRelayed(d.region, p.Key, pong)
			l.greeted(now, p)
		}
		return
	}
	first := true
	for _, p := range peers {
		if f := l.c.cfg.Contact; f != nil {
			f(p.Key)
		}
		e, once := p.path.pinged(now, d.src, m.TxID)
		first = first && once
		l.apply(now, p, e)
	}
	if !first {
		return
	}
	pong := disco.Seal(nil, l.c.discoPublic, l.sharedKey(peers[0]), &disco.Pong{TxID: m.TxID, Src: d.src})
	l.c.sendDatagrams(0, [][]byte{pong}, d.src)
}

// greetEvery limits how often a peer's pings are reported.
const greetEvery = time.Second

// greeted calls PeerBack for a peer that has pinged us through a relay.
func (l *loop) greeted(now time.Time, p *peer) {
	if l.c.cfg.PeerBack == nil || now.Sub(p.greeted) < greetEvery {
		return
	}
	p.greeted = now
	l.c.cfg.PeerBack(p.Key)
}

func (l *loop) greetByRelay() {
	now := time.Now()
	for _, p := range l.peers {
		if !p.path.active || p.path.trusted(now) && !p.quality.relayed() || l.sharedKey(p) == nil {
			continue
		}
		if id, ok := p.path.relayPing(now); ok {
			ping := disco.Seal(nil, l.c.discoPublic, l.sharedKey(p), &disco.Ping{TxID: id, NodeKey: l.nodeKey})
			l.sendRelayed(p.Region, p.Key, ping)
		}
	}
}

func (l *loop) handlePong(now time.Time, d discoPacket, m *disco.Pong, peers []*peer) {
	for _, p := range peers {
		var sent sentPing
		var ok bool
		if d.direct() {
			sent, ok = p.path.ponged(now, m.TxID)
		} else {
			sent, ok = p.path.pongedByRelay(m.TxID)
		}
		if !ok {
			continue
		}
		l.c.log.Debug("pong", "peer", p.Key, "from", d.src, "region", d.region, "rtt", now.Sub(sent.at))
		if c := l.waiting[m.TxID]; c != nil {
			delete(l.waiting, m.TxID)
			r := PingResult{Latency: now.Sub(sent.at), Region: d.region}
			if d.direct() {
				r.Addr = sent.addr
			}
			c <- r // has room for all answers
		}
		l.apply(now, p, effects{})
		return
	}
	l.c.counters.discoBad.Add(1)
}

// handleCallMeMaybe takes a peer's endpoints. Only its relay may deliver them (section 2.4).
func (l *loop) handleCallMeMaybe(now time.Time, d discoPacket, m *disco.CallMeMaybe) {
	p := l.peers[d.from]
	if d.direct() || p == nil || p.Disco != d.by.public {
		l.c.counters.discoBad.Add(1)
		return
	}
	l.c.log.Debug("call me maybe", "peer", p.Key, "endpoints", len(m.Endpoints))
	l.apply(now, p, p.path.calledMaybe(now, m.Endpoints))
}

// sendPing sends a ping over UDP. If that fails, the ping counts as lost.
func (l *loop) sendPing(p *peer, to netip.AddrPort, txid disco.TxID) {
	shared := l.sharedKey(p)
	if shared == nil {
		return
	}
	b := disco.Seal(nil, l.c.discoPublic, shared, &disco.Ping{TxID: txid, NodeKey: l.nodeKey})
	if err := l.c.sendDatagrams(0, [][]byte{b}, to); err != nil {
		l.c.log.Debug("ping not sent", "peer", p.Key, "addr", to, "err", err)
	}
}

func (l *loop) sendRelayed(region int, to key.NodePublic, packet []byte) {
	if l.c.cfg.Relay == nil {
		return
	}
	if err := l.c.cfg.Relay.Send(region, to, [][]byte{packet}); err != nil {
		l.c.log.Debug("disco not relayed", "peer", to, "region", region, "err", err)
	}
}

// wantCall sends p a CallMeMaybe: at once if our own endpoints are fresh, otherwise after a round
// of STUN (section 3.5).
func (l *loop) wantCall(now time.Time, p *peer) {
	if l.c.cfg.Relay == nil || l.sharedKey(p) == nil || l.c.cfg.NoUDP {
		return
	}
	if l.fresh(now) {
		l.call(p)
		return
	}
	if len(l.calls) == 0 {
		l.callsBy = now.Add(callPatience)
	}
	l.calls[p] = struct{}{}
	l.startSTUN(now)
}

// callAll sends the CallMeMaybes that wait for our endpoints.
func (l *loop) callAll(now time.Time) {
	l.refreshOwn(now)
	for p := range l.calls {
		l.call(p)
	}
	clear(l.calls)
}

func (l *loop) call(p *peer) {
	l.sendRelayed(p.Region, p.Key, disco.Seal(nil, l.c.discoPublic, l.sharedKey(p), &disco.CallMeMaybe{Endpoints: l.own}))
}
