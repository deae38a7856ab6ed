package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"ginnel/control/policy"
	"ginnel/control/store"
	"ginnel/key"
)

// storeTimeout bounds each access to the store.
const storeTimeout = 10 * time.Second

// Store keeps the state of a server: a [store.Bolt], or anything that behaves like it.
type Store interface {
	List(ctx context.Context, prefix string) ([]store.Entry, uint64, error)
	Transact(ctx context.Context, t store.Txn) (uint64, error)
}

// storage is a Store and what the server knows of its content.
type storage struct {
	Store
	revision uint64 // of the latest read or write
	// stale means that the store may differ from the state: another program wrote to it, or a write
	// that returned an error took effect.
	stale bool
}

// all returns every record of the store, and the revision of the store.
func (s *storage) all() ([]store.Entry, uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	entries, revision, err := s.List(ctx, "")
	if err != nil {
		return nil, 0, fmt.Errorf("reading the state: %w", err)
	}
	return entries, revision, nil
}

// commit makes a transaction.
func (s *storage) commit(txn store.Txn) error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	revision, err := s.Transact(ctx, txn)
	if err == nil {
		s.revision = revision
	}
	return err
}

// unchanged reports whether the store still has the revision that the state was read or written at,
// that is, whether a write that returned an error had no effect.
func (s *storage) unchanged() bool {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	_, revision, err := s.List(ctx, serverPath)
	return err == nil && revision == s.revision
}

// loadKey reads the server's key. In a new store it makes one.
func (s *storage) loadKey() (k serverRecord, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	entries, _, err := s.List(ctx, serverPath)
	if err != nil {
		return k, fmt.Errorf("reading the server's key: %w", err)
	}
	if len(entries) > 0 {
		err := loadRecord(entries[0], func(r *serverRecord) { k = *r })
		if err == nil && k.Key.IsZero() {
			err = errors.New("reading the server's key: its record has no key")
		}
		return k, err
	}
	k.Key = key.NewMachinePrivate()
	_, err = s.Transact(ctx, store.Txn{
		If:  []store.Condition{{Key: serverPath}},
		Put: []store.Put{{Key: serverPath, Value: mustJSON(k)}},
	})
	if err != nil {
		return k, fmt.Errorf("storing the server's key: %w", err)
	}
	return k, nil
}

// load reads the whole state from the store. It changes nothing of c except the revision of
// storage.
func (c *core) load(at moment) (*state, error) {
	entries, revision, err := c.storage.all()
	if err != nil {
		return nil, err
	}
	t := &tx{state: newState(c.cfg), moment: at}
	nodes, err := t.loadAll(entries)
	if err != nil {
		return nil, err
	}
	for _, rec := range nodes {
		t.index(rec)
		t.setNode(&node{rec: rec, polled: at.mono, awaited: len(rec.Primary) > 0})
	}
	for _, e := range entries {
		t.revisions[e.Key] = e.Revision
	}
	c.storage.revision = revision
	return t.state, nil
}

// loadAll puts all records except nodes into the state, and returns the nodes. They come last
// because their served routes depend on the policy.
func (t *tx) loadAll(entries []store.Entry) ([]*nodeRecord, error) {
	var nodes []*nodeRecord
	for _, e := range entries {
		var err error
		switch kind, _, _ := strings.Cut(e.Key, "/"); kind + "/" {
		case usersPrefix:
			err = loadRecord(e, t.putUser)
		case nodesPrefix:
			err = loadRecord(e, func(r *nodeRecord) { nodes = append(nodes, r) })
		case keysPrefix:
			err = loadRecord(e, t.putKey)
		case tokensPrefix:
			err = loadRecord(e, t.putToken)
		case blockedPrefix:
			err = loadRecord(e, func(r *blockRecord) { t.blocked[r.Machine] = r })
		case loginsPrefix:
			err = loadRecord(e, t.putLogin)
		case countersPath + "/":
			err = loadRecord(e, func(r *counters) { t.counters = *r })
		case policyPath + "/":
			err = loadRecord(e, func(r *policyRecord) { t.policyText, t.policySet = r.Text, r.Changed })
		}
		if err != nil {
			return nil, err
		}
	}
	if t.policyText == "" {
		return nodes, nil
	}
	p, err := policy.ParseInForce([]byte(t.policyText))
	if err != nil {
		return nil, fmt.Errorf("reading the stored policy: %w", err)
	}
	t.policy = p
	return nodes, nil
}

func loadRecord[T any](e store.Entry, put func(*T)) error {
	r := new(T)
	if err := json.Unmarshal(e.Value, r); err != nil {
		return fmt.Errorf("reading the record %s: %w", e.Key, err)
	}
	put(r)
	return nil
}

// reload reads the state from the store again. It keeps what is not stored, such as which nodes are
// connected.
func (c *core) reload(at moment) {
	if c.storage.unchanged() {
		c.storage.stale = false
		return
	}
	st, err := c.load(at)
	if err != nil {
		c.log.Error("state not reloaded", "err", err)
		return
	}
	c.storage.stale = false
	old := c.st
	c.st = st
	st.deleted = old.deleted
	t := &tx{state: st, moment: at, usersChanged: true, rulesChanged: true}
	for id := range old.nodes {
		if st.nodes[id] == nil {
			t.changed = append(t.changed, id)
		}
	}
	for id, n := range st.nodes {
		live := cloneNode(n)
		if was := old.nodes[id]; was != nil {
			live = cloneNode(was)
			live.rec = n.rec
		}
		t.setNode(live)
	}
	for id, was := range old.logins {
		if l := st.logins[id]; l != nil {
			l.endc = was.endc // requests may be waiting for it
		} else {
			close(was.endc)
			delete(c.loginWaits, id)
		}
	}
	for id, l := range st.logins {
		if _, known := c.loginWaits[id]; !known {
			c.resetLoginTimer(t, l)
		}
	}
	c.committed(t)
}
