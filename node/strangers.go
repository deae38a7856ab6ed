package node

import (
	"slices"
	"sync"
	"time"

	"ginnel/internal/share"
	"ginnel/key"
)

const (
	strangersMax  = 32              // packets kept
	strangersTime = 3 * time.Second // for which they are
)

// strangers keeps packets that relays bring from nodes that are not in the map, for a moment: a
// node that has just joined may be faster than the news of it.
type strangers struct {
	mu      sync.Mutex
	packets []*strangerPacket // oldest first
	held    share.Table[key.NodePublic, *strangerPacket]
}

type strangerPacket struct {
	region int
	from   key.NodePublic
	b      []byte
	at     time.Time
}

// keep takes a copy of the packets, and drops others for them if need be: the oldest of the node
// that has most.
func (s *strangers) keep(now time.Time, region int, from key.NodePublic, packets [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range packets {
		if len(s.packets) == strangersMax {
			_, oldest, _ := s.held.Displace(from)
			s.held.Remove(oldest)
			s.packets = slices.DeleteFunc(s.packets, func(p *strangerPacket) bool { return p == oldest })
		}
		p := &strangerPacket{region, from, slices.Clone(b), now}
		s.packets = append(s.packets, p)
		s.held.Add(from, p)
	}
}

// take returns the packets of those that known knows now, and forgets old ones.
func (s *strangers) take(now time.Time, known func(key.NodePublic) bool) (taken []*strangerPacket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packets = slices.DeleteFunc(s.packets, func(p *strangerPacket) bool {
		old := now.Sub(p.at) > strangersTime
		if !old && !known(p.from) {
			return false
		}
		if s.held.Remove(p); !old {
			taken = append(taken, p)
		}
		return true
	})
	return taken
}
