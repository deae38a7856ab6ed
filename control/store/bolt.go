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
	// lockTimeout is how long Open waits for another process to give up the file, as at a restart.
	lockTimeout = time.Second
	// maxCommit bounds how many transactions share one write to the disk.
	maxCommit = 1024
)

// The buckets of the file: entries are the revision in 8 bytes and the value; the revision of the
// store is its sequence.
var entriesBucket = []byte("entries")

// Bolt is a store in one file. A transaction that it has acknowledged is on the disk. Transactions
// that arrive while another is written are written together.
type Bolt struct {
	db      *bbolt.DB
	feed    *feed
	latest  atomic.Uint64 // revision of the store
	commitc chan *commit
	stopc   chan struct{}
	wg      sync.WaitGroup
	once    sync.Once
	err     error // of closing
}

// commit is a transaction on its way. The fields below donec belong to the committer until that is
// closed.
type commit struct {
	txn   Txn
	donec chan struct{}

	events   []Event
	revision uint64
	err      error
}

// Open opens the store in a file, which is made if there is none. It fails with ErrLocked if
// another process has it open.
func Open(path string) (*Bolt, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("opening %s: %w", path, ErrLocked)
	case err != nil:
		return nil, fmt.Errorf("opening the store %s: %w", path, err)
	}
	b := &Bolt{db: db, commitc: make(chan *commit), stopc: make(chan struct{})}
	if err := db.Update(b.prepare); err != nil {
		db.Close()
		return nil, fmt.Errorf("preparing the store %s: %w", path, err)
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

// List returns the entries whose keys begin with prefix, in their order, and the revision of the
// store.
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

// parseEntry copies what a read transaction lends.
func parseEntry(b []byte) (revision uint64, value []byte, err error) {
	if len(b) < 8 {
		return 0, nil, errors.New("an entry without a revision")
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
	return fmt.Errorf("reading the store: %w", err)
}

// Transact changes the store and returns its new revision, or ErrConflict. After any other error,
// such as a full disk or the end of ctx, it is not known whether the change was made: whoever has
// to know reads.
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

// Watch yields what changes under prefix after a revision, in order, until ctx ends; see ErrResync.
func (b *Bolt) Watch(ctx context.Context, prefix string, after uint64) iter.Seq2[Event, error] {
	return b.feed.watch(ctx, prefix, after)
}

// Close ends all watches, waits for what is being written and releases the file.
func (b *Bolt) Close() error {
	b.once.Do(b.close)
	return b.err
}

func (b *Bolt) close() {
	close(b.stopc)
	b.wg.Wait()
	b.feed.end(errClosed)
	if err := b.db.Close(); err != nil {
		b.err = fmt.Errorf("closing the store: %w", err)
	}
}
