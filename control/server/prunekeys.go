package server

import (
	"cmp"
	"slices"
	"time"
)

const (
	// keyKept is how long a pre-auth key that lets nobody in is kept, so that whoever tries it is told
	// why.
	invalidKeyRetention = 30 * 24 * time.Hour
	// maxPruned is how many keys are deleted with a change: a transaction of the store has a limit,
	// too.
	maxPruned = 32
)

// uselessSince returns when a key has ceased to let nodes in. ok is false if it still does.
func (k *authKey) invalidSince(now time.Time) (since time.Time, ok bool) {
	switch k.usable(now) {
	case nil:
		return since, false
	case errKeyExpired:
		return k.Expiry, true
	case errKeyUsed:
		return k.Used, true
	}
	return k.Created, true // revoked by an older version, which did not note when
}

// pruneKeys deletes keys that have let nobody in for long. A node that was let in may come with its
// key again, so keys of nodes stay, unless there is no room for others.
func (t *tx) pruneKeys() {
	inUse := make(map[int64]bool)
	if full := len(t.keys) >= maxKeys; !full {
		for _, n := range t.nodes {
			inUse[n.rec.AuthKey] = true
		}
	}
	type candidate struct {
		key   *authKey
		since time.Time
	}
	var list []candidate
	for _, k := range t.keys {
		since, useless := k.invalidSince(t.now)
		if useless && !inUse[k.ID] && (len(t.keys) >= maxKeys || t.now.Sub(since) > invalidKeyRetention) {
			list = append(list, candidate{k, since})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.key.ID, b.key.ID))
	})
	for _, c := range list[:min(len(list), maxPruned)] {
		t.deleteKey(c.key)
	}
}

// dropKeysOf deletes keys of a user who is being deleted, as many as fit into a transaction. Those
// that are left are pruned with time, and let nobody in.
func (t *tx) deleteKeysOf(user int64) {
	dropped := 0
	for _, k := range t.keys {
		if k.User == user && dropped < maxPruned {
			t.deleteKey(k)
			dropped++
		}
	}
}
