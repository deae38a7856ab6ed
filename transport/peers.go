package transport

import (
	"container/heap"
	"slices"
	"time"

	"ginnel/internal/disco"
	"ginnel/key"
)

// setPeers replaces the set of peers.
func (l *loop) setPeers(peers []Peer) {
	now := time.Now()
	keep := make(map[key.NodePublic]bool, len(peers))
	for _, pr := range peers {
		keep[pr.Key] = true
		p := l.peers[pr.Key]
		if p == nil {
			p = l.addPeer(pr.Key)
		}
		l.updatePeer(now, p, pr)
	}
	for k, p := range l.peers {
		if !keep[k] {
			l.removePeer(p)
		}
	}
	l.c.status.changed()
}

func (l *loop) addPeer(k key.NodePublic) *peer {
	e, _ := l.c.endpoints.LoadOrStore(k, newEndpoint(k))
	p := &peer{Peer: Peer{Key: k}, ep: e.(*endpoint), path: newPath(randomID[disco.TxID]), index: -1}
	l.peers[k] = p
	return p
}

// updatePeer applies the map's description of p. A new disco key means that the peer was restarted,
// so nothing that was proven about its paths holds any more.
func (l *loop) updatePeer(now time.Time, p *peer, pr Peer) {
	var e effects
	if p.Disco != pr.Disco {
		l.unlinkDisco(p)
		if !pr.Disco.IsZero() {
			l.byDisco[pr.Disco] = append(l.byDisco[pr.Disco], p)
			l.c.expected.expect(pr.Disco)
		}
		p.Disco = pr.Disco
		e = p.path.reset(now)
	}
	p.Region = pr.Region
	p.Endpoints = slices.Clone(pr.Endpoints)
	if p.Disco.IsZero() {
		p.path.setEndpoints(now, nil)
	} else {
		p.path.setEndpoints(now, p.Endpoints)
	}
	l.apply(now, p, e)
}

func (l *loop) removePeer(p *peer) {
	l.unlinkDisco(p)
	if p.index >= 0 {
		heap.Remove(&l.due, p.index)
	}
	delete(l.calls, p)
	delete(l.peers, p.Key)
	l.c.endpoints.CompareAndDelete(p.Key, p.ep)
	// WireGuard may still use the endpoint for a moment: its packets have no way out now.
	p.ep.route.Store(&route{})
}

func (l *loop) unlinkDisco(p *peer) {
	rest := slices.DeleteFunc(l.byDisco[p.Disco], func(q *peer) bool { return q == p })
	if len(rest) == 0 {
		delete(l.byDisco, p.Disco)
		l.c.expected.keys.Delete(p.Disco)
	} else {
		l.byDisco[p.Disco] = rest
	}
}

// sharedKey returns the key of the boxes with p, nil if p has no disco key.
func (l *loop) sharedKey(p *peer) *key.Shared {
	if s := l.c.expected.key(p.Disco); s != nil {
		return s.sharedKey(l.c.disco)
	}
	return nil
}
