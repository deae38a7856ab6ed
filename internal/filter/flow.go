package filter

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// flow identifies a UDP or SCTP flow: two words of local address, two of remote address, and one of
// family, protocol, local port and remote port.
type flow [5]uint64

// The flow table is a set-associative cache with LRU replacement in each set; a keyed hash selects
// the set of a flow. It holds twice the 512 flows that the reference implementation remembers
// (section 6.2), so that the last 512 flows are all present unless more than 64 of them fall into
// one set, which happens once in about a million cases.
const (
	flowSets = 16
	flowWays = 64
)

// flowTable is a set of recent flows. Looking up a flow takes no lock; inserting one locks its set.
type flowTable struct {
	seed maphash.Seed
	sets [flowSets]flowSet
}

// flowSet is one set of the table. The tags are stored apart from the flows, so that a search reads
// few cache lines.
type flowSet struct {
	mu    sync.Mutex // held while a flow is inserted
	clock atomic.Uint32
	tags  [flowWays]atomic.Uint32 // hashes of the flows; zero is a free slot
	slots [flowWays]flowSlot
}

// flowSlot holds a flow, guarded by a sequence lock: if version is odd, or has changed when a
// reader has read the words, the flow was being replaced.
type flowSlot struct {
	version atomic.Uint32
	used    atomic.Uint32 // the set's clock at the last use
	words   [len(flow{})]atomic.Uint64
}

func newFlowTable() *flowTable { return &flowTable{seed: maphash.MakeSeed()} }

// place returns the set of f and the tag of f in it.
func (t *flowTable) place(f flow) (*flowSet, uint32) {
	var b [8 * len(f)]byte
	for i, word := range f {
		binary.NativeEndian.PutUint64(b[8*i:], word)
	}
	h := maphash.Bytes(t.seed, b[:])
	return &t.sets[h%flowSets], uint32(h>>32) | 1
}

// knows reports whether f is in the table, and marks it as used.
func (t *flowTable) knows(f flow) bool {
	s, tag := t.place(f)
	return s.touch(f, tag)
}

// remember inserts f into the table, or marks it as used.
func (t *flowTable) remember(f flow) {
	s, tag := t.place(f)
	if s.touch(f, tag) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.touch(f, tag) { // no other goroutine has inserted f meanwhile
		s.replaceLocked(f, tag)
	}
}

// touch marks f as used. It reports false if f is not in the set.
func (s *flowSet) touch(f flow, tag uint32) bool {
	for i := range s.tags {
		if s.tags[i].Load() != tag || !s.slots[i].holds(f) {
			continue
		}
		// If f was also the last flow used in this set, nothing is written, so that the cache lines stay
		// shared between processors.
		if now := s.clock.Load(); s.slots[i].used.Load() != now {
			s.slots[i].used.Store(s.clock.Add(1))
		}
		return true
	}
	return false
}

func (s *flowSlot) holds(f flow) bool {
	version := s.version.Load()
	for i := range f {
		if s.words[i].Load() != f[i] {
			return false
		}
	}
	return version%2 == 0 && s.version.Load() == version
}

// replaceLocked puts f into a free slot, or else into the least recently used one.
func (s *flowSet) replaceLocked(f flow, tag uint32) {
	now := s.clock.Add(1)
	oldest, age := 0, uint32(0)
	for i := range s.slots {
		if s.tags[i].Load() == 0 {
			oldest = i
			break
		}
		if a := now - s.slots[i].used.Load(); a > age { // correct even after the clock has wrapped around
			oldest, age = i, a
		}
	}
	slot := &s.slots[oldest]
	slot.version.Add(1)
	for i, word := range f {
		slot.words[i].Store(word)
	}
	slot.used.Store(now)
	s.tags[oldest].Store(tag)
	slot.version.Add(1)
}
