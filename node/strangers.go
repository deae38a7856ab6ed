package node

import (
	"slices"
	"sync"
	"time"

	"ginnel/internal/key"
)

const (
	strangersMax  = 32              // packets kept
	strangersTime = 3 * time.Second // for which they are
)

// strangers keeps packets that relays bring from nodes that are not in the map, for a moment: a node that has just
// joined may be faster than the news of it.
type strangers struct {
	mu      sync.Mutex
	packets []strangerPacket // oldest first
}

type strangerPacket struct {
	region int
	from   key.NodePublic
	b      []byte
	at     time.Time
}

// keep takes a copy of the packets, and drops the oldest of others for them if need be.
func (s *strangers) keep(now time.Time, region int, from key.NodePublic, packets [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range packets {
		if len(s.packets) == strangersMax {
			s.packets = slices.Delete(s.packets, 0, 1)
		}
		s.packets = append(s.packets, strangerPacket{region, from, slices.Clone(b), now})
	}
}

// take returns the packets of those that known knows now, and forgets old ones.
func (s *strangers) take(now time.Time, known func(key.NodePublic) bool) (taken []strangerPacket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packets = slices.DeleteFunc(s.packets, func(p strangerPacket) bool {
		if now.Sub(p.at) > strangersTime {
			return true
		}
		if !known(p.from) {
			return false
		}
		taken = append(taken, p)
		return true
	})
	return taken
}
