// Package store keeps the state of a coordination server: a key-value store whose keys are paths,
// with transactions and watches. Bolt keeps it in one file, Memory in memory.
//
// The operations are those of etcd, so that etcd can replace Bolt (docs/store.md). One server alone
// uses only List and Transact. Get and Watch are for several servers on one store; until those
// exist, only the tests that every store must pass call them.
//
// Goroutines: one per Bolt, the committer; Close ends it.
package store

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// Entry is a key and its value, with the revision of the transaction that wrote it last.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
}

// Event is a change of one key. All events of a transaction have the same revision.
type Event struct {
	Entry
	Deleted bool // Value is nil then
}

// Txn is a transaction: all of its changes are made if all conditions hold, and none otherwise.
type Txn struct {
	If  []Condition
	Put []Put
	Del []string // keys, which need not exist
}

// Condition holds if the entry at Key was last written at Revision, or if Revision is 0 and Key has
// no entry.
type Condition struct {
	Key      string
	Revision uint64
}

// Put writes a value.
type Put struct {
	Key   string
	Value []byte
}

// Limits of keys, values and transactions. The default limits of etcd are not lower.
const (
	MaxKey   = 512     // bytes
	MaxValue = 1 << 20 // bytes
	MaxOps   = 128     // conditions of one transaction, and likewise its puts and deletes
)

var (
	// ErrNotFound: the key has no entry.
	ErrNotFound = errors.New("store: no such key")
	// ErrConflict: a condition did not hold, and nothing was changed.
	ErrConflict = errors.New("store: changed in the meantime")
	// ErrResync: the watch cannot continue without a gap. List again, and watch from the revision of
	// the list.
	ErrResync = errors.New("store: events were missed")
	// ErrLocked: another process has the file open.
	ErrLocked = errors.New("in use by another server")

	errClosed = fmt.Errorf("store: %w", net.ErrClosed)
)

// check returns an error if t exceeds the limits or has an invalid key.
func (t *Txn) check() error {
	if len(t.If) > MaxOps || len(t.Put)+len(t.Del) > MaxOps {
		return fmt.Errorf("store: transaction has more than %d operations", MaxOps)
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
		return fmt.Errorf("store: invalid key %.40q", k)
	}
	return nil
}
