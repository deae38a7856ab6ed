package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"ginnel/control/policy"
	"ginnel/control/store"
	"ginnel/internal/key"
)

// load reads the whole state from the store.
func (c *core) load(at moment) (*state, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	entries, revision, err := c.store.List(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	t := &tx{state: newState(c.cfg), moment: at}
	late, err := t.loadAll(entries)
	if err != nil {
		return nil, err
	}
	for _, rec := range late { // now that the policy is known
		t.index(rec)
		t.setNode(&node{rec: rec, polled: at.tick, awaited: len(rec.Primary) > 0})
	}
	for _, e := range entries {
		t.revisions[e.Key] = e.Revision
	}
	c.revision = revision
	return t.state, nil
}

// loadAll reads everything into the state but nodes, which it returns.
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

// loadKey reads the server's key, which is made when the store is new.
func (c *core) loadKey() error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	entries, _, err := c.store.List(ctx, serverPath)
	if err != nil {
		return fmt.Errorf("reading the server's key: %w", err)
	}
	if len(entries) > 0 {
		err := loadRecord(entries[0], func(r *serverRecord) { c.key = *r })
		if err == nil && c.key.Key.IsZero() {
			err = errors.New("reading the server's key: there is none in its record")
		}
		return err
	}
	c.key.Key = key.NewMachinePrivate()
	_, err = c.store.Transact(ctx, store.Txn{
		If:  []store.Condition{{Key: serverPath}},
		Put: []store.Put{{Key: serverPath, Value: mustJSON(c.key)}},
	})
	if err != nil {
		return fmt.Errorf("storing the server's key: %w", err)
	}
	return nil
}

// unchanged reports whether the store is as the state has it: a write that failed has left nothing.
func (c *core) unchanged() bool {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	_, revision, err := c.store.List(ctx, serverPath)
	return err == nil && revision == c.revision
}

// reload takes the state from the store again, and keeps what is not stored: who is connected.
func (c *core) reload(at moment) {
	if c.unchanged() {
		c.stale = false
		return
	}
	st, err := c.load(at)
	if err != nil {
		c.log.Error("reading the state again failed", "err", err)
		return
	}
	c.stale = false
	old := c.st
	c.st = st
	st.deleted = old.deleted
	t := &tx{state: st, moment: at, people: true, regroup: true}
	for id := range old.nodes {
		if st.nodes[id] == nil {
			t.changed = append(t.changed, id)
		}
	}
	for id, n := range st.nodes {
		live := newLive(n)
		if was := old.nodes[id]; was != nil {
			live = newLive(was)
			live.rec = n.rec
		}
		t.setNode(live)
	}
	for id, was := range old.logins {
		if l := st.logins[id]; l != nil {
			l.endc = was.endc // somebody may be waiting
		} else {
			close(was.endc)
			delete(c.attended, id)
		}
	}
	for id, l := range st.logins {
		if _, known := c.attended[id]; !known {
			c.noteLogin(t, l)
		}
	}
	c.settle(t)
}
