// Package store keeps the state of a coordination server: values under paths, read, listed, changed
// in transactions and watched. Bolt keeps them in one file, Memory keeps them nowhere. The
// operations are those that etcd has, so that it can take their place (docs/store.md).
//
// Goroutines: one per Bolt, which commits; Close ends it.
package store

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// Entry is a value with the revision of the transaction that wrote it last.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
}

// Event is a change of one key. Events of one transaction have one revision.
type Event struct {
	Entry
	Deleted bool // then there is no Value
}

// Txn is a change that happens as a whole if all conditions hold, or not at all.
type Txn struct {
	If  []Condition
	Put []Put
	Del []string // keys that need not be there
}

// Condition holds if the entry at Key was last written at Revision; 0 means that there is none.
type Condition struct {
	Key      string
	Revision uint64
}

// Put writes a value.
type Put struct {
	Key   string
	Value []byte
}

// Limits of what is stored; etcd's are no lower in its default configuration.
const (
	MaxKey   = 512
	MaxValue = 1 << 20
	MaxOps   = 128 // conditions, or puts and deletes, of one transaction
)

var (
	// ErrNotFound is returned for a key that has no entry.
	ErrNotFound = errors.New("store: no such key")
	// ErrConflict is returned if a condition did not hold. Nothing was changed.
	ErrConflict = errors.New("store: changed in the meantime")
	// ErrResync ends a watch that cannot go on without a gap: list again, and watch from the revision
	// of the list.
	ErrResync = errors.New("store: events were missed")
	// ErrLocked is returned by Open if another process has the file.
	ErrLocked = errors.New("store: in use by another server")

	errClosed = fmt.Errorf("store: %w", net.ErrClosed)
)

// check refuses what no store could keep.
func (t *Txn) check() error {
	if len(t.If) > MaxOps || len(t.Put)+len(t.Del) > MaxOps {
		return fmt.Errorf("store: a transaction of more than %d operations", MaxOps)
	}
	for _, c := range t.If {
		if err := checkKey(c.Key); err != nil {
			return err
		}
	}
	for _, p := range t.Put {
		if err := checkKey(p.Key); err != nil {
			return err
		}
		if len(p.Value) > MaxValue {
			return fmt.Errorf("store: value of %s is %d bytes long, more than %d", p.Key, len(p.Value), MaxValue)
		}
	}
	for _, k := range t.Del {
		if err := checkKey(k); err != nil {
			return err
		}
	}
	return nil
}

func checkKey(k string) error {
	if k == "" || len(k) > MaxKey || strings.HasPrefix(k, "/") || strings.HasSuffix(k, "/") {
		return fmt.Errorf("store: bad key %.40q", k)
	}
	return nil
}
