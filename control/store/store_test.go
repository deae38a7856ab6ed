package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// stores are all implementations. Each test of this file runs on each of them.
var stores = map[string]func(t *testing.T) store{
	"memory": func(*testing.T) store { return NewMemory() },
	"bolt":   func(t *testing.T) store { return openBolt(t) },
}

// store is the interface that every implementation must have.
type store interface {
	Get(ctx context.Context, key string) (Entry, error)
	List(ctx context.Context, prefix string) ([]Entry, uint64, error)
	Transact(ctx context.Context, t Txn) (uint64, error)
	Watch(ctx context.Context, prefix string, after uint64) iter.Seq2[Event, error]
	Close() error
}

func openBolt(t testing.TB) *Bolt {
	t.Helper()
	b, err := Open(filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func onEach(t *testing.T, test func(t *testing.T, s store)) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			defer s.Close()
			test(t, s)
		})
	}
}

func put(t testing.TB, s store, kv ...string) uint64 {
	t.Helper()
	var txn Txn
	for i := 0; i < len(kv); i += 2 {
		txn.Put = append(txn.Put, Put{kv[i], []byte(kv[i+1])})
	}
	rev, err := s.Transact(context.Background(), txn)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func TestGetAndList(t *testing.T) {
	onEach(t, func(t *testing.T, s store) {
		if _, err := s.Get(t.Context(), "a/1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Get of nothing: got %v, want ErrNotFound", err)
		}
		first := put(t, s, "a/1", "one", "b/1", "")
		second := put(t, s, "a/2", "two")
		if second <= first {
			t.Errorf("revisions %d and then %d", first, second)
		}
		e, err := s.Get(t.Context(), "a/1")
		if err != nil || string(e.Value) != "one" || e.Revision != first {
			t.Errorf("Get: got %+v, %v", e, err)
		}
		if e, err := s.Get(t.Context(), "b/1"); err != nil || len(e.Value) != 0 {
			t.Errorf("an empty value: got %+v, %v", e, err)
		}
		list, rev, err := s.List(t.Context(), "a/")
		if err != nil || rev != second || len(list) != 2 || list[0].Key != "a/1" || string(list[1].Value) != "two" {
			t.Errorf("List: got %+v at %d, %v", list, rev, err)
		}
	})
}

// A transaction makes all of its changes or none.
func TestConditions(t *testing.T) {
	onEach(t, func(t *testing.T, s store) {
		rev := put(t, s, "a", "1", "gone", "x")
		for name, c := range map[string]struct {
			cond Condition
			want error
		}{
			"absent that is there": {Condition{"a", 0}, ErrConflict},
			"another revision":     {Condition{"a", rev + 1}, ErrConflict},
			"there that is absent": {Condition{"b", rev}, ErrConflict},
			"as it is":             {Condition{"a", rev}, nil},
		} {
			_, err := s.Transact(t.Context(), Txn{If: []Condition{{"c", 0}, c.cond}, Put: []Put{{"d", nil}},
				Del: []string{"gone"}})
			if !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %v", name, err, c.want)
			}
			_, err = s.Get(t.Context(), "d")
			if c.want != nil && !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: was written all the same", name)
			}
			s.Transact(t.Context(), Txn{Put: []Put{{"gone", nil}}, Del: []string{"d"}})
		}
	})
}

func TestRefusals(t *testing.T) {
	onEach(t, func(t *testing.T, s store) {
		for name, txn := range map[string]Txn{
			"empty key":      {Put: []Put{{"", nil}}},
			"slash in front": {Del: []string{"/a"}},
			"long key":       {If: []Condition{{strings.Repeat("k", MaxKey+1), 0}}},
			"long value":     {Put: []Put{{"a", make([]byte, MaxValue+1)}}},
			"many":           {Del: make([]string, MaxOps+1)},
		} {
			if _, err := s.Transact(t.Context(), txn); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
	})
}

// A watch yields every event after its revision, including those from before the watch began.
func TestWatch(t *testing.T) {
	onEach(t, func(t *testing.T, s store) {
		start := put(t, s, "n/1", "old")
		put(t, s, "n/2", "new", "other/1", "x")
		next, stop := iter.Pull2(s.Watch(t.Context(), "n/", start))
		defer stop()
		want := func(key, value string, deleted bool) {
			t.Helper()
			e, err, ok := next()
			if !ok || err != nil || e.Key != key || string(e.Value) != value || e.Deleted != deleted {
				t.Fatalf("got %+v, %v, want %s=%s", e, err, key, value)
			}
		}
		want("n/2", "new", false)
		put(t, s, "n/3", "later")
		if _, err := s.Transact(t.Context(), Txn{Del: []string{"n/1", "n/none"}}); err != nil {
			t.Fatal(err)
		}
		want("n/3", "later", false)
		want("n/1", "", true)
		s.Close()
		if _, err, _ := next(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: got %v, want net.ErrClosed", err)
		}
	})
}

func TestWatchEndsWithItsContext(t *testing.T) {
	onEach(t, func(t *testing.T, s store) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for e, err := range s.Watch(ctx, "", 0) {
			t.Errorf("got %+v, %v", e, err)
		}
	})
}

// A watcher that is further behind than the store remembers gets ErrResync.
func TestWatchResync(t *testing.T) {
	onEach(t, func(t *testing.T, s store) {
		start := put(t, s, "a", "0")
		for i := range feedLen/MaxOps + 1 {
			var txn Txn
			for j := range MaxOps {
				txn.Put = append(txn.Put, Put{fmt.Sprintf("k/%d/%d", i, j), nil})
			}
			if _, err := s.Transact(t.Context(), txn); err != nil {
				t.Fatal(err)
			}
		}
		for _, err := range s.Watch(t.Context(), "", start) {
			if !errors.Is(err, ErrResync) {
				t.Errorf("got %v, want ErrResync", err)
			}
			break
		}
		_, rev, _ := s.List(t.Context(), "k/")
		put(t, s, "a", "1")
		for e, err := range s.Watch(t.Context(), "", rev) {
			if err != nil || e.Key != "a" {
				t.Errorf("after listing again: got %+v, %v", e, err)
			}
			break
		}
	})
}

// Concurrent writers increment one counter by compare-and-swap, and each gets a number of its own:
// no conflict is overlooked when transactions are grouped.
func TestConcurrentCounters(t *testing.T) {
	onEach(t, func(t *testing.T, s store) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 10 {
					increment(t, s)
				}
			})
		}
		wg.Wait()
		e, err := s.Get(t.Context(), "n")
		if err != nil || len(e.Value) != 80 {
			t.Errorf("counted to %d, %v, want 80", len(e.Value), err)
		}
	})
}

func increment(t *testing.T, s store) {
	for {
		e, err := s.Get(context.Background(), "n")
		if err != nil && !errors.Is(err, ErrNotFound) {
			t.Error(err)
			return
		}
		_, err = s.Transact(context.Background(), Txn{
			If:  []Condition{{"n", e.Revision}},
			Put: []Put{{"n", append(slices.Clone(e.Value), 'x')}},
		})
		if err == nil {
			return
		}
		if !errors.Is(err, ErrConflict) {
			t.Error(err)
			return
		}
	}
}

func TestAfterClose(t *testing.T) {
	onEach(t, func(t *testing.T, s store) {
		s.Close()
		if err := s.Close(); err != nil {
			t.Errorf("closing again: %v", err)
		}
		_, err := s.Transact(t.Context(), Txn{Put: []Put{{"a", nil}}})
		_, gerr := s.Get(t.Context(), "a")
		_, _, lerr := s.List(t.Context(), "")
		for _, err := range []error{err, gerr, lerr} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v, want net.ErrClosed", err)
			}
		}
	})
}
