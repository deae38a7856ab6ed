package wireguard

import "sync"

// table is a map for many readers. Unlike sync.Map it allocates nothing for a look.
type table[K, V comparable] struct {
	mu sync.RWMutex
	m  map[K]V
}

// get returns the value of k, zero if there is none.
func (t *table[K, V]) get(k K) V {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.m[k]
}

func (t *table[K, V]) set(k K, v V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[K]V)
	}
	t.m[k] = v
}

// add makes v the value of k unless it has one, and reports whether it did.
func (t *table[K, V]) add(k K, v V) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.m[k]; ok {
		return false
	}
	if t.m == nil {
		t.m = make(map[K]V)
	}
	t.m[k] = v
	return true
}

// remove takes k away if v is its value.
func (t *table[K, V]) remove(k K, v V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m[k] == v {
		delete(t.m, k)
	}
}

// all returns a copy.
func (t *table[K, V]) all() map[K]V {
	t.mu.RLock()
	defer t.mu.RUnlock()
	c := make(map[K]V, len(t.m))
	for k, v := range t.m {
		c[k] = v
	}
	return c
}
