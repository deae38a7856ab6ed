package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
)

// errNothing rolls back a bbolt transaction without changes, to avoid a write to the disk.
var errNothing = errors.New("nothing to write")

// run is the committer. It takes a transaction and all others that are waiting, and writes them
// together.
func (b *Bolt) run() {
	var batch []*commit
	for {
		select {
		case c := <-b.commitc:
			batch = b.gather(append(batch[:0], c))
			b.write(batch)
		case <-b.stopc:
			return
		}
	}
}

// gather appends the transactions that are waiting now.
func (b *Bolt) gather(batch []*commit) []*commit {
	for len(batch) < maxCommit {
		select {
		case c := <-b.commitc:
			batch = append(batch, c)
		default:
			return batch
		}
	}
	return batch
}

// write commits the transactions in order, each with conditions and a revision of its own, and
// wakes their callers.
func (b *Bolt) write(batch []*commit) {
	var revision uint64
	err := b.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(entriesBucket)
		revision = bucket.Sequence()
		before := revision
		for _, c := range batch {
			c.err = c.apply(bucket, revision+1)
			switch {
			case c.err == nil:
				revision++
				c.revision = revision
			case !errors.Is(c.err, ErrConflict):
				return c.err // c may be half applied, so the whole batch is rolled back
			}
		}
		if revision == before {
			return errNothing
		}
		return bucket.SetSequence(revision)
	})
	if err == nil {
		b.latest.Store(revision)
	} else if !errors.Is(err, errNothing) {
		b.settle()
		fail(batch, fmt.Errorf("store: writing: %w", err))
	}
	var events []Event
	for _, c := range batch {
		if c.err == nil {
			events = append(events, c.events...)
		}
	}
	if len(events) > 0 {
		b.feed.publish(events)
	}
	for _, c := range batch {
		close(c.donec)
	}
}

// settle finds out what a failed write has left in the file. If its last page, the meta page,
// reached the disk, the batch is committed although Update failed; then watchers must resync.
func (b *Bolt) settle() {
	var now uint64
	err := b.db.View(func(tx *bbolt.Tx) error {
		now = tx.Bucket(entriesBucket).Sequence()
		return nil
	})
	if err == nil && now != b.latest.Load() {
		b.latest.Store(now)
		b.feed.forget(now)
	}
}

// fail sets the error of all transactions of the batch, except those that had a conflict.
func fail(batch []*commit, err error) {
	for _, c := range batch {
		if !errors.Is(c.err, ErrConflict) {
			c.err, c.events, c.revision = err, nil, 0
		}
	}
}

// apply checks the conditions of the transaction and then applies its changes.
func (c *commit) apply(bucket *bbolt.Bucket, revision uint64) error {
	for _, cond := range c.txn.If {
		var have uint64
		if v := bucket.Get([]byte(cond.Key)); len(v) >= 8 {
			have = binary.BigEndian.Uint64(v)
		}
		if have != cond.Revision {
			return ErrConflict
		}
	}
	for _, p := range c.txn.Put {
		value := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(p.Value)), revision)
		value = append(value, p.Value...)
		if err := bucket.Put([]byte(p.Key), value); err != nil {
			return err
		}
		e := Entry{Key: p.Key, Value: value[8:], Revision: revision}
		c.events = append(c.events, Event{Entry: e})
	}
	for _, k := range c.txn.Del {
		if bucket.Get([]byte(k)) == nil {
			continue
		}
		if err := bucket.Delete([]byte(k)); err != nil {
			return err
		}
		c.events = append(c.events, Event{Entry: Entry{Key: k, Revision: revision}, Deleted: true})
	}
	return nil
}
