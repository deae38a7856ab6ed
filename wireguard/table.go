package wireguard

import (
	"maps"
	"sync"
	"sync/atomic"
)

// table is a map for many readers. A reader takes no lock and writes to no memory that processors
// share, and, unlike with sync.Map, allocates nothing. A change copies the part of the map that
// holds the key, one of 256.
type table[K, V comparable] struct {
	part func(K) byte // which part holds a key; any function that spreads keys evenly

	mu    sync.Mutex // held by changes
	parts [256]atomic.Pointer[map[K]V]
}

// get returns the value of k, zero if there is none.
func (t *table[K, V]) get(k K) (v V) {
	if m := t.parts[t.part(k)].Load(); m != nil {
		v = (*m)[k]
	}
	return v
}

func (t *table[K, V]) set(k K, v V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changeLocked(k, func(m map[K]V) { m[k] = v })
}

// add makes v the value of k unless it has one, and reports whether it did.
func (t *table[K, V]) add(k K, v V) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.parts[t.part(k)].Load(); m != nil {
		if _, ok := (*m)[k]; ok {
			return false
		}
	}
	t.changeLocked(k, func(m map[K]V) { m[k] = v })
	return true
}

// remove takes k away if v is its value.
func (t *table[K, V]) remove(k K, v V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.parts[t.part(k)].Load(); m == nil || (*m)[k] != v {
		return
	}
	t.changeLocked(k, func(m map[K]V) { delete(m, k) })
}

// changeLocked replaces the part that k is in by a changed copy.
func (t *table[K, V]) changeLocked(k K, change func(map[K]V)) {
	part, next := &t.parts[t.part(k)], make(map[K]V)
	if m := part.Load(); m != nil {
		maps.Copy(next, *m)
	}
	change(next)
	part.Store(&next)
}

// all returns a copy.
func (t *table[K, V]) all() map[K]V {
	all := make(map[K]V)
	for i := range t.parts {
		if m := t.parts[i].Load(); m != nil {
			maps.Copy(all, *m)
		}
	}
	return all
}
