package node

import (
	"sync"

	"ginnel/key"
)

// peerMap is a map with the keys of peers that many goroutines use. Its zero value is empty. A load
// takes no lock, so that it may be called for each datagram.
type peerMap[V any] struct{ m sync.Map }

func (p *peerMap[V]) load(k key.NodePublic) (v V, ok bool) {
	loaded, ok := p.m.Load(k)
	if ok {
		v = loaded.(V)
	}
	return v, ok
}

func (p *peerMap[V]) loadAndDelete(k key.NodePublic) (v V, ok bool) {
	loaded, ok := p.m.LoadAndDelete(k)
	if ok {
		v = loaded.(V)
	}
	return v, ok
}

func (p *peerMap[V]) has(k key.NodePublic) bool {
	_, ok := p.m.Load(k)
	return ok
}

func (p *peerMap[V]) store(k key.NodePublic, v V) { p.m.Store(k, v) }

func (p *peerMap[V]) delete(k key.NodePublic) { p.m.Delete(k) }

// keep deletes the entries of peers that are not in known.
func (p *peerMap[V]) keep(known map[key.NodePublic]bool) {
	p.m.Range(func(k, _ any) bool {
		if !known[k.(key.NodePublic)] {
			p.m.Delete(k)
		}
		return true
	})
}
