package wireguard

import (
	"maps"
	"sync"
	"sync/atomic"
)

// table is a map that is read far more often than changed. A reader takes no lock, writes to no
// shared memory and, unlike with sync.Map, allocates nothing. The map is split into 256 parts; a
// change copies the part that holds the key.
type table[K, V comparable] struct {
	part func(K) byte // which part holds a key; must spread the keys evenly

	mu    sync.Mutex // serialises changes
	parts [256]atomic.Pointer[map[K]V]
}

// get returns the value of k, the zero value if k is absent.
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

// add sets the value of k if k is absent, and reports whether it did.
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

// remove deletes k if its value is v.
func (t *table[K, V]) remove(k K, v V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.parts[t.part(k)].Load(); m == nil || (*m)[k] != v {
		return
	}
	t.changeLocked(k, func(m map[K]V) { delete(m, k) })
}

// changeLocked replaces the part that holds k with a changed copy.
func (t *table[K, V]) changeLocked(k K, change func(map[K]V)) {
	part, next := &t.parts[t.part(k)], make(map[K]V)
	if m := part.Load(); m != nil {
		maps.Copy(next, *m)
	}
	change(next)
	part.Store(&next)
}

// all returns a copy of the whole map.
func (t *table[K, V]) all() map[K]V {
	all := make(map[K]V)
	for i := range t.parts {
		if m := t.parts[i].Load(); m != nil {
			maps.Copy(all, *m)
		}
	}
	return all
}
