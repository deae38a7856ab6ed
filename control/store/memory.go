package store

import (
	"bytes"
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Memory is a store without a file, for tests and for networks that need not outlive the process.
// Make it with NewMemory.
type Memory struct {
	feed *feed

	mu       sync.Mutex
	entries  map[string]Entry
	revision uint64
	closed   bool
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{feed: newFeed(0), entries: make(map[string]Entry)}
}

// Get returns the entry at key, or ErrNotFound.
func (m *Memory) Get(_ context.Context, key string) (Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[key]
	switch {
	case m.closed:
		return Entry{}, errClosed
	case !ok:
		return Entry{}, ErrNotFound
	}
	e.Value = bytes.Clone(e.Value)
	return e, nil
}

// List returns the entries whose keys begin with prefix, sorted by key, and the revision of the
// store at the same moment.
func (m *Memory) List(_ context.Context, prefix string) ([]Entry, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, 0, errClosed
	}
	list := slices.SortedFunc(maps.Values(m.entries), func(a, b Entry) int { return cmp.Compare(a.Key, b.Key) })
	list = slices.DeleteFunc(list, func(e Entry) bool { return !strings.HasPrefix(e.Key, prefix) })
	for i := range list {
		list[i].Value = bytes.Clone(list[i].Value)
	}
	return list, m.revision, nil
}

// Transact changes the store and returns its new revision, or ErrConflict.
func (m *Memory) Transact(_ context.Context, t Txn) (uint64, error) {
	if err := t.check(); err != nil {
		return 0, err
	}
	events, revision, err := m.apply(t)
	if err != nil {
		return 0, err
	}
	m.feed.publish(events)
	return revision, nil
}

func (m *Memory) apply(t Txn) ([]Event, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, 0, errClosed
	}
	for _, c := range t.If {
		if m.entries[c.Key].Revision != c.Revision {
			return nil, 0, ErrConflict
		}
	}
	m.revision++
	var events []Event
	for _, p := range t.Put {
		e := Entry{Key: p.Key, Value: bytes.Clone(p.Value), Revision: m.revision}
		m.entries[p.Key] = e
		events = append(events, Event{Entry: e})
	}
	for _, k := range t.Del {
		if _, ok := m.entries[k]; ok {
			delete(m.entries, k)
			events = append(events, Event{Entry: Entry{Key: k, Revision: m.revision}, Deleted: true})
		}
	}
	return events, m.revision, nil
}

// Watch yields the changes of keys with a prefix after a revision, in order, until ctx ends; see
// ErrResync.
func (m *Memory) Watch(ctx context.Context, prefix string, after uint64) iter.Seq2[Event, error] {
	return m.feed.watch(ctx, prefix, after)
}

// Close ends all watches.
func (m *Memory) Close() error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.feed.end(errClosed)
	return nil
}
