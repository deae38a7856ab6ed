package server

import (
	"slices"
	"sync"
	"sync/atomic"

	"ginnel/key"
	"ginnel/relay/internal/derp"
)

// registry knows which keys can be reached, and where. The packet path only reads the atomics of a
// peer. Everything else is guarded by one lock, under which no other code is called.
type registry struct {
	mu       sync.RWMutex
	peers    map[key.NodePublic]*peer
	watchers map[*watcher]struct{}
}

// peer is a key that can be reached: it has connections to this server, or to another server of the
// mesh.
type peer struct {
	key    key.NodePublic
	active atomic.Pointer[serverConn] // gets the packets; nil if there is no connection here
	link   atomic.Pointer[meshLink]   // the mesh link to it; nil if there is none
	gone   atomic.Bool                // no longer in the registry: the key must be looked up again

	// Guarded by registry.mu.
	conns     []*serverConn            // the last one is active: it sent the latest frame
	links     []*meshLink              // in the order of their announcements; the first is in use (5.3)
	receivers map[*serverConn]struct{} // connections that have got packets from this peer
}

// registryCounts is the number of keys by place, and of watchers.
type registryCounts struct{ local, remote, duplicate, watchers int }

// lookup returns the peer with key k, or nil.
func (r *registry) lookup(k key.NodePublic) *peer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.peers[k]
}

// add registers a connection and makes it the active one of its key (4.6).
func (r *registry) add(c *serverConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peerLocked(c.key)
	p.conns = append(p.conns, c)
	p.active.Store(c)
	c.peer = p
	r.changedLocked(c.key)
}

// remove takes a connection out. If its key has now left the region, it returns the connections
// that must be told (4.5).
func (r *registry) remove(c *serverConn) (told []*serverConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for src := range c.sources {
		delete(src.receivers, c)
	}
	c.sources = nil
	if c.watch != nil {
		delete(r.watchers, c.watch)
		close(c.watch.wakec)
	}
	p := c.peer
	p.conns = slices.DeleteFunc(p.conns, func(o *serverConn) bool { return o == c })
	if n := len(p.conns); n > 0 {
		p.active.Store(p.conns[n-1])
		return nil
	}
	p.conns = nil
	p.active.Store(nil)
	r.changedLocked(c.key)
	return r.removeUnreachableLocked(p)
}

// activate makes c the active connection of its key, because c has sent a frame (4.6).
func (r *registry) activate(c *serverConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := c.peer
	if i := slices.Index(p.conns, c); i >= 0 {
		p.conns = append(slices.Delete(p.conns, i, i+1), c)
		p.active.Store(c)
	}
}

// connsOf returns all connections of a key.
func (r *registry) connsOf(k key.NodePublic) []*serverConn {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if p := r.peers[k]; p != nil {
		return slices.Clone(p.conns)
	}
	return nil
}

// subscribe notes that the connection to has got packets from the key src and must be told when src
// leaves.
func (r *registry) subscribe(src key.NodePublic, to *serverConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peers[src]
	if p == nil || !slices.Contains(to.peer.conns, to) {
		return // one of the two has left meanwhile
	}
	if p.receivers == nil {
		p.receivers = make(map[*serverConn]struct{})
	}
	p.receivers[to] = struct{}{}
	if to.sources == nil {
		to.sources = make(map[*peer]struct{})
	}
	to.sources[p] = struct{}{}
}

// subscribed reports whether subscribe would change nothing.
func (r *registry) subscribed(src key.NodePublic, to *serverConn) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	p := r.peers[src]
	if p == nil {
		return true // an unknown source cannot leave
	}
	_, ok := p.receivers[to]
	return ok
}

// addLink notes that key k is connected to the server at the other end of link (5.2).
func (r *registry) addLink(k key.NodePublic, link *meshLink) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peerLocked(k)
	if !slices.Contains(p.links, link) {
		p.links = append(p.links, link)
		p.link.Store(p.links[0])
	}
}

// removeLink undoes addLink. If k has now left the region, it returns the connections that must be
// told (5.3).
func (r *registry) removeLink(k key.NodePublic, link *meshLink) (told []*serverConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peers[k]
	if p == nil || !slices.Contains(p.links, link) {
		return nil
	}
	p.links = slices.DeleteFunc(p.links, func(l *meshLink) bool { return l == link })
	p.link.Store(nil)
	if len(p.links) > 0 {
		p.link.Store(p.links[0])
	}
	return r.removeUnreachableLocked(p)
}

// peerLocked returns the peer with key k. It makes one if there is none.
func (r *registry) peerLocked(k key.NodePublic) *peer {
	p := r.peers[k]
	if p == nil {
		p = &peer{key: k}
		if r.peers == nil {
			r.peers = make(map[key.NodePublic]*peer)
		}
		r.peers[k] = p
	}
	return p
}

// removeUnreachableLocked removes p if it has neither connection nor link any more. It returns the
// connections that must be told.
func (r *registry) removeUnreachableLocked(p *peer) (told []*serverConn) {
	if len(p.conns) > 0 || len(p.links) > 0 {
		return nil
	}
	p.gone.Store(true)
	delete(r.peers, p.key)
	for c := range p.receivers {
		delete(c.sources, p)
		told = append(told, c)
	}
	p.receivers = nil
	return told
}

// count counts the keys and watchers.
func (r *registry) count() (n registryCounts) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, p := range r.peers {
		switch len(p.conns) {
		case 0:
			n.remote++
			continue
		case 1:
		default:
			n.duplicate++
		}
		n.local++
	}
	n.watchers = len(r.watchers)
	return n
}

// watcher is a mesh peer that has sent WatchConns and must be told about changes of presence (5.2).
type watcher struct {
	wakec chan struct{} // has an item while dirty is not empty; closed when the connection ends

	// dirty holds the keys whose presence may have changed since the last appendChanges; guarded by
	// registry.mu. Only the latest state of each key is sent, so the set is bounded by the number
	// of keys.
	dirty map[key.NodePublic]struct{}
}

// watch makes c a watcher. At first, all present keys count as changed.
func (r *registry) watch(c *serverConn) *watcher {
	w := &watcher{wakec: make(chan struct{}, 1), dirty: make(map[key.NodePublic]struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, p := range r.peers {
		if len(p.conns) > 0 {
			w.dirty[k] = struct{}{}
		}
	}
	if r.watchers == nil {
		r.watchers = make(map[*watcher]struct{})
	}
	r.watchers[w] = struct{}{}
	c.watch = w
	w.wake()
	return w
}

func (w *watcher) wake() {
	select {
	case w.wakec <- struct{}{}:
	default:
	}
}

// changedLocked notes for all watchers that the presence of k may have changed.
func (r *registry) changedLocked(k key.NodePublic) {
	for w := range r.watchers {
		w.dirty[k] = struct{}{}
		w.wake()
	}
}

// appendChanges appends to b the frames that tell w what has changed since the last call.
func (r *registry) appendChanges(w *watcher, b []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range w.dirty {
		if p := r.peers[k]; p != nil && len(p.conns) > 0 {
			c := p.conns[len(p.conns)-1]
			b = derp.AppendPeerPresent(b, derp.Presence{Peer: k, Addr: c.remote, Flags: c.flags})
		} else {
			b = derp.AppendPeerGone(b, k, derp.GoneDisconnected)
		}
	}
	clear(w.dirty)
	return b
}
