package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

const (
	// lockTimeout is how long Open waits for another process to close the file, as at a restart.
	lockTimeout = time.Second
	// maxCommit is the largest number of transactions in one write to the disk.
	maxCommit = 1024
)

// entriesBucket is the only bucket of the file. A value in it is the revision of its entry, in 8
// bytes, and the entry's value. The bucket's sequence is the revision of the store.
var entriesBucket = []byte("entries")

// Bolt is a store in one file. A transaction that Transact has acknowledged is on the disk.
// Transactions that arrive during a write are written together (group commit).
type Bolt struct {
	db      *bbolt.DB
	feed    *feed
	latest  atomic.Uint64 // revision of the store
	commitc chan *commit
	stopc   chan struct{}
	wg      sync.WaitGroup
	once    sync.Once
	err     error // of Close
}

// commit is a pending transaction. The committer owns the fields below donec until it closes donec.
type commit struct {
	txn   Txn
	donec chan struct{}

	events   []Event
	revision uint64
	err      error
}

// Open opens the store in a file, which it creates if it does not exist. It fails with ErrLocked if
// another process has the file open.
func Open(path string) (*Bolt, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("store: opening %s: %w", path, ErrLocked)
	case err != nil:
		return nil, fmt.Errorf("store: opening %s: %w", path, err)
	}
	b := &Bolt{db: db, commitc: make(chan *commit), stopc: make(chan struct{})}
	if err := db.Update(b.prepare); err != nil {
		db.Close()
		return nil, fmt.Errorf("store: preparing %s: %w", path, err)
	}
	b.feed = newFeed(b.latest.Load())
	b.wg.Go(b.run)
	return b, nil
}

func (b *Bolt) prepare(tx *bbolt.Tx) error {
	bucket, err := tx.CreateBucketIfNotExists(entriesBucket)
	if err == nil {
		b.latest.Store(bucket.Sequence())
	}
	return err
}

// Get returns the entry at key, or ErrNotFound.
func (b *Bolt) Get(_ context.Context, key string) (Entry, error) {
	e := Entry{Key: key}
	err := b.db.View(func(tx *bbolt.Tx) (err error) {
		value := tx.Bucket(entriesBucket).Get([]byte(key))
		if value == nil {
			return ErrNotFound
		}
		e.Revision, e.Value, err = parseEntry(value)
		return err
	})
	if err != nil {
		return Entry{}, readError(err)
	}
	return e, nil
}

// List returns the entries whose keys begin with prefix, sorted by key, and the revision of the
// store at the same moment.
func (b *Bolt) List(_ context.Context, prefix string) (list []Entry, revision uint64, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(entriesBucket)
		revision = bucket.Sequence()
		c := bucket.Cursor()
		for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
			rev, value, err := parseEntry(v)
			if err != nil {
				return err
			}
			list = append(list, Entry{Key: string(k), Value: value, Revision: rev})
		}
		return nil
	})
	if err != nil {
		return nil, 0, readError(err)
	}
	return list, revision, nil
}

// parseEntry parses a value of the bucket. It copies the bytes, because they are valid only during
// the read transaction.
func parseEntry(b []byte) (revision uint64, value []byte, err error) {
	if len(b) < 8 {
		return 0, nil, errors.New("entry has no revision")
	}
	return binary.BigEndian.Uint64(b), append([]byte{}, b[8:]...), nil
}

func readError(err error) error {
	switch {
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		return errClosed
	case errors.Is(err, ErrNotFound):
		return err
	}
	return fmt.Errorf("store: reading: %w", err)
}

// Transact changes the store and returns its new revision, or ErrConflict. After any other error,
// such as a full disk or the end of ctx, the change may have been made or not; a caller that has to
// know reads the store.
func (b *Bolt) Transact(ctx context.Context, t Txn) (uint64, error) {
	if err := t.check(); err != nil {
		return 0, err
	}
	c := &commit{txn: t, donec: make(chan struct{})}
	select {
	case b.commitc <- c:
	case <-b.stopc:
		return 0, errClosed
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case <-c.donec:
		return c.revision, c.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Watch yields the changes of keys with a prefix after a revision, in order, until ctx ends; see
// ErrResync.
func (b *Bolt) Watch(ctx context.Context, prefix string, after uint64) iter.Seq2[Event, error] {
	return b.feed.watch(ctx, prefix, after)
}

// Close ends all watches, waits for the current write and closes the file.
func (b *Bolt) Close() error {
	b.once.Do(b.close)
	return b.err
}

func (b *Bolt) close() {
	close(b.stopc)
	b.wg.Wait()
	b.feed.end(errClosed)
	if err := b.db.Close(); err != nil {
		b.err = fmt.Errorf("store: closing: %w", err)
	}
}
