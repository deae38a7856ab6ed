package filter

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// flow identifies a UDP or SCTP flow: the local address, the remote address, and in the last word
// family, protocol, local and remote port.
type flow [5]uint64

// The table remembers at least the 512 flows that were used last, as the reference does (section
// 6.2), but for coincidence: a flow lives in the one of the sets that a keyed hash names, and a set
// forgets what it has not used for the longest time. That 512 flows need more than 64 places of one
// set is a matter of one in a million.
const (
	flowSets = 16
	flowWays = 64
)

// flowTable remembers flows. Flows that are known are looked up without a lock; a new one locks its
// set.
type flowTable struct {
	seed maphash.Seed
	sets [flowSets]flowSet
}

// flowSet is a part of the table. Its tags are apart from the flows so that a search reads few
// cache lines.
type flowSet struct {
	mu    sync.Mutex // held to put a flow in
	clock atomic.Uint32
	tags  [flowWays]atomic.Uint32 // hashes; zero is a free place
	slots [flowWays]flowSlot
}

// flowSlot holds a flow. Readers have no lock: a version that is odd, or differs after reading,
// says that the flow was being replaced.
type flowSlot struct {
	version atomic.Uint32
	used    atomic.Uint32 // the set's clock at the last use
	words   [len(flow{})]atomic.Uint64
}

func newFlowTable() *flowTable { return &flowTable{seed: maphash.MakeSeed()} }

// place returns the set of f and the tag of f there.
func (t *flowTable) place(f flow) (*flowSet, uint32) {
	var b [8 * len(f)]byte
	for i, word := range f {
		binary.NativeEndian.PutUint64(b[8*i:], word)
	}
	h := maphash.Bytes(t.seed, b[:])
	return &t.sets[h%flowSets], uint32(h>>32) | 1
}

// knows reports whether f is remembered, and keeps it so.
func (t *flowTable) knows(f flow) bool {
	s, tag := t.place(f)
	return s.touch(f, tag)
}

// remember puts f into the table.
func (t *flowTable) remember(f flow) {
	s, tag := t.place(f)
	if s.touch(f, tag) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.touch(f, tag) { // nobody was quicker
		s.replaceLocked(f, tag)
	}
}

// touch notes the use of f; it reports false if f is not in the set.
func (s *flowSet) touch(f flow, tag uint32) bool {
	for i := range s.tags {
		if s.tags[i].Load() != tag || !s.slots[i].holds(f) {
			continue
		}
		// A flow that was also the last to be used leaves the set's cache lines alone.
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

// replaceLocked puts f into the slot that is free or was not used for the longest time.
func (s *flowSet) replaceLocked(f flow, tag uint32) {
	now := s.clock.Add(1)
	oldest, age := 0, uint32(0)
	for i := range s.slots {
		if s.tags[i].Load() == 0 {
			oldest = i
			break
		}
		if a := now - s.slots[i].used.Load(); a > age { // right even after the clock has come round
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
