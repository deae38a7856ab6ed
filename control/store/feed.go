package store

import (
	"context"
	"iter"
	"slices"
	"sort"
	"strings"
	"sync"
)

// feedLen is how many events are kept for watchers that are behind.
const feedLen = 8192

// feed keeps the latest events and wakes watchers. Watchers have no queues of their own: one that
// is more than feedLen events behind gets ErrResync.
type feed struct {
	mu     sync.Mutex
	events []Event       // in order
	floor  uint64        // events up to this revision may be missing
	morec  chan struct{} // closed and replaced at each change
	err    error         // not nil: no more events will come
}

func newFeed(revision uint64) *feed {
	return &feed{floor: revision, morec: make(chan struct{})}
}

// publish adds the events of one or more transactions.
func (f *feed) publish(events []Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, events...)
	if over := len(f.events) - feedLen; over > 0 {
		f.floor = f.events[over-1].Revision
		f.events = slices.Delete(f.events, 0, over)
	}
	f.wakeLocked()
}

// forget makes every watcher resync, because it is unknown what was written up to revision.
func (f *feed) forget(revision uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events, f.floor = nil, revision
	f.wakeLocked()
}

// end ends all watches with err.
func (f *feed) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
		f.wakeLocked()
	}
}

func (f *feed) wakeLocked() {
	close(f.morec)
	f.morec = make(chan struct{})
}

// after returns the events after a revision, and a channel that is closed when there are more.
func (f *feed) after(revision uint64) (events []Event, morec <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.err != nil:
		return nil, nil, f.err
	case revision < f.floor:
		return nil, nil, ErrResync
	}
	i := sort.Search(len(f.events), func(i int) bool { return f.events[i].Revision > revision })
	return slices.Clone(f.events[i:]), f.morec, nil
}

// watch yields the events of keys with a prefix after a revision, until ctx ends. If the watch
// fails before, it yields the error last.
func (f *feed) watch(ctx context.Context, prefix string, revision uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			events, morec, err := f.after(revision)
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range events {
				revision = e.Revision
				if strings.HasPrefix(e.Key, prefix) && !yield(e, nil) {
					return
				}
			}
			if len(events) > 0 {
				continue
			}
			select {
			case <-morec:
			case <-ctx.Done():
				return
			}
		}
	}
}
