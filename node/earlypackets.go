package node

import (
	"slices"
	"sync"
	"time"

	"ginnel/internal/share"
	"ginnel/key"
)

const (
	earlyMax  = 32              // packets kept
	earlyTime = 3 * time.Second // for which a packet is kept
)

// earlyPackets keeps packets that relays deliver from nodes that the map does not list, because a
// node that has just joined may be faster than the map.
type earlyPackets struct {
	mu      sync.Mutex
	packets []*earlyPacket // oldest first
	held    share.Table[key.NodePublic, *earlyPacket]
}

type earlyPacket struct {
	region int
	from   key.NodePublic
	b      []byte
	at     time.Time
}

// keep copies the packets. If there are earlyMax, it drops the oldest of the node that has most.
func (s *earlyPackets) keep(now time.Time, region int, from key.NodePublic, packets [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range packets {
		if len(s.packets) == earlyMax {
			_, oldest, _ := s.held.Displace(from)
			s.held.Remove(oldest)
			s.packets = slices.DeleteFunc(s.packets, func(p *earlyPacket) bool { return p == oldest })
		}
		p := &earlyPacket{region, from, slices.Clone(b), now}
		s.packets = append(s.packets, p)
		s.held.Add(from, p)
	}
}

// take removes and returns the packets of nodes that are known by now. It drops old packets.
func (s *earlyPackets) take(now time.Time, known func(key.NodePublic) bool) (taken []*earlyPacket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packets = slices.DeleteFunc(s.packets, func(p *earlyPacket) bool {
		old := now.Sub(p.at) > earlyTime
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
