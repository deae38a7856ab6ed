package server

import (
	"cmp"
	"slices"
	"time"
)

const (
	// invalidKeyRetention is how long a pre-auth key is kept after it has become invalid, so that a
	// node that uses it is told the reason.
	invalidKeyRetention = 30 * 24 * time.Hour
	// maxPruned limits the keys that are deleted along with a change, because a transaction of the
	// store has a limit.
	maxPruned = 32
)

// invalidSince returns when a key became invalid. ok is false if the key is still valid.
func (k *authKey) invalidSince(now time.Time) (since time.Time, ok bool) {
	switch k.usable(now) {
	case nil:
		return since, false
	case errKeyExpired:
		return k.Expiry, true
	case errKeyUsed:
		return k.Used, true
	}
	return k.Created, true // older versions revoked keys without noting the time
}

// pruneKeys deletes keys that have been invalid for invalidKeyRetention. A registered node may use
// its key again, so the keys of nodes are kept, except when the maximum number of keys is reached.
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

// deleteKeysOf deletes the keys of a user, up to maxPruned. The rest is invalid and pruneKeys
// deletes it later.
func (t *tx) deleteKeysOf(user int64) {
	dropped := 0
	for _, k := range t.keys {
		if k.User == user && dropped < maxPruned {
			t.deleteKey(k)
			dropped++
		}
	}
}
