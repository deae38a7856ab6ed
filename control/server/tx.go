package server

import (
	"slices"

	"ginnel/control/policy"
)

// tx is the changes of one command. They are made at once, and undone if the command or the store
// fails.
type tx struct {
	*state
	moment
	undo         []func()
	writes       []write
	changed      []int64 // IDs of nodes
	usersChanged bool
	rulesChanged bool     // the policy changed, or the users that it names
	after        []func() // called once the changes are stored; must not block
}

// write is a record to be stored at its path, or deleted if record is nil.
type write struct {
	path   string
	record record
}

// set puts a value into one of the maps of the state.
func set[K comparable, V any](t *tx, m map[K]V, k K, v V) {
	t.undo = append(t.undo, restoreEntry(m, k))
	m[k] = v
}

// unset takes a value out of one of the maps of the state.
func unset[K comparable, V any](t *tx, m map[K]V, k K) {
	t.undo = append(t.undo, restoreEntry(m, k))
	delete(m, k)
}

// restoreEntry returns a function that gives m the entry for k that it has now, or none.
func restoreEntry[K comparable, V any](m map[K]V, k K) func() {
	old, ok := m[k]
	if !ok {
		return func() { delete(m, k) }
	}
	return func() { m[k] = old }
}

// assign changes a field of the state.
func assign[T any](t *tx, field *T, v T) {
	old := *field
	t.undo = append(t.undo, func() { *field = old })
	*field = v
}

// rollback undoes the changes in reverse order.
func (t *tx) rollback() {
	for _, undo := range slices.Backward(t.undo) {
		undo()
	}
}

// store has a record written when the batch is committed.
func (t *tx) store(r record) { t.writes = append(t.writes, write{r.path(), r}) }

// erase has a record deleted when the batch is committed.
func (t *tx) erase(r record) { t.writes = append(t.writes, write{path: r.path()}) }

// count stores new counters.
func (t *tx) count(next counters) {
	assign(t, &t.counters, next)
	t.store(next)
}

// putNode stores the record of a new or changed node.
func (t *tx) putNode(rec *nodeRecord) {
	old := t.nodes[rec.ID]
	if old != nil && !sameIdentity(old.rec, rec) {
		rec.Approved = nil // approvals are for an identity, not for a node ID
	}
	t.store(rec)
	n := &node{rec: rec, polled: t.mono}
	if old != nil {
		n = cloneNode(old)
		n.rec = rec
		t.unindex(old.rec)
	}
	t.index(rec)
	t.setNode(n)
}

// sameIdentity reports whether two records have the same machine and the same owner: the same tags
// or, without tags, the same user.
func sameIdentity(a, b *nodeRecord) bool {
	sameUser := a.User == b.User || len(a.Tags) > 0
	return a.Machine == b.Machine && slices.Equal(a.Tags, b.Tags) && sameUser
}

// setNode puts a node into the state and derives its fields from the record. It does not store the
// record.
func (t *tx) setNode(n *node) {
	n.expired = n.rec.expiredAt(t.now)
	n.served = t.servedBy(n.rec)
	n.name = t.fullName(n.rec.Label)
	set(t, t.nodes, n.rec.ID, n)
	t.changed = append(t.changed, n.rec.ID)
}

func (t *tx) deleteNode(id int64) {
	n := t.nodes[id]
	t.erase(n.rec)
	t.unindex(n.rec)
	unset(t, t.nodes, id)
	t.changed = append(t.changed, id)
}

func (t *tx) index(rec *nodeRecord) {
	set(t, t.byKey, rec.Key, rec.ID)
	set(t, t.byLabel, rec.Label, rec.ID)
	for _, a := range rec.addrs() {
		set(t, t.byAddr, a, rec.ID)
	}
	if t.byMachine[rec.Machine] == nil {
		set(t, t.byMachine, rec.Machine, make(map[int64]bool))
	}
	set(t, t.byMachine[rec.Machine], rec.ID, true)
}

func (t *tx) unindex(rec *nodeRecord) {
	unset(t, t.byKey, rec.Key)
	unset(t, t.byLabel, rec.Label)
	for _, a := range rec.addrs() {
		unset(t, t.byAddr, a)
	}
	unset(t, t.byMachine[rec.Machine], rec.ID)
	if len(t.byMachine[rec.Machine]) == 0 {
		unset(t, t.byMachine, rec.Machine)
	}
}

func (t *tx) putUser(u *user) {
	if old := t.users[u.ID]; old != nil {
		t.unindexUser(old)
		t.rulesChanged = t.rulesChanged || old.Name != u.Name
	}
	t.store(u)
	set(t, t.byUser, foldName(u.Name), u.ID)
	set(t, t.users, u.ID, u)
	t.usersChanged = true
}

func (t *tx) deleteUser(u *user) {
	t.erase(u)
	unset(t, t.users, u.ID)
	t.unindexUser(u)
	t.usersChanged = true
}

// unindexUser removes the name of a user from the index. Older versions allowed names that differ
// only in case; another user with such a name takes the entry.
func (t *tx) unindexUser(u *user) {
	unset(t, t.byUser, foldName(u.Name))
	for _, other := range t.users {
		if other.ID != u.ID && foldName(other.Name) == foldName(u.Name) {
			set(t, t.byUser, foldName(other.Name), other.ID)
		}
	}
}

func (t *tx) putKey(k *authKey) {
	t.store(k)
	set(t, t.byHash, k.Hash, k.ID)
	set(t, t.keys, k.ID, k)
}

func (t *tx) deleteKey(k *authKey) {
	t.erase(k)
	unset(t, t.byHash, k.Hash)
	unset(t, t.keys, k.ID)
}

func (t *tx) putToken(k *token) {
	t.store(k)
	set(t, t.byHash, k.Hash, k.ID)
	set(t, t.tokens, k.ID, k)
}

func (t *tx) deleteToken(k *token) {
	t.erase(k)
	unset(t, t.byHash, k.Hash)
	unset(t, t.tokens, k.ID)
}

func (t *tx) putLogin(l *login) {
	l.endc = make(chan struct{})
	t.store(l)
	set(t, t.logins, l.ID, l)
}

// loginOutcome is how a login ended.
type loginOutcome int

const (
	loginApproved loginOutcome = iota
	loginRefused
	loginExpired
)

// setPolicy replaces the policy. p is r.Text parsed, or nil if r has no text.
func (t *tx) setPolicy(r policyRecord, p *policy.Policy) {
	assign(t, &t.policyText, r.Text)
	assign(t, &t.policySet, r.Changed)
	assign(t, &t.policy, p)
	t.store(r)
	t.rulesChanged = true
}
