package relay

import (
	"sync"

	"ginnel/key"
)

// maxRoutes bounds the peers whose region is remembered. When there are more, an arbitrary one is
// forgotten: a route only saves a connection to the peer's home.
const maxRoutes = 4096

// routeTable remembers through which region a peer's packets came, so that it can be answered there
// (8.5).
type routeTable struct {
	mu sync.RWMutex
	m  map[key.NodePublic]*region
}

// get returns the region through which packets of peer came last, or nil.
func (t *routeTable) get(peer key.NodePublic) *region {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.m[peer]
}

// learn notes that a packet of peer came through r.
func (t *routeTable) learn(peer key.NodePublic, r *region) {
	if t.get(peer) == r {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[key.NodePublic]*region)
	}
	if _, known := t.m[peer]; !known && len(t.m) >= maxRoutes {
		for other := range t.m {
			delete(t.m, other)
			break
		}
	}
	t.m[peer] = r
}

// forget removes the route of peer if it leads through r.
func (t *routeTable) forget(peer key.NodePublic, r *region) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m[peer] == r {
		delete(t.m, peer)
	}
}

// forgetRegion removes all routes through r.
func (t *routeTable) forgetRegion(r *region) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for peer, through := range t.m {
		if through == r {
			delete(t.m, peer)
		}
	}
}
