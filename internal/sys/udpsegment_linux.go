//go:build linux && !ginnel_stdnet

package sys

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// gsoLimits knows the largest datagram that UDP_SEGMENT works for, by destination. It works for all
// that fit into a message unless the kernel has refused one. A device without checksum offload
// refuses every size; a route with a small MTU refuses datagrams that would be fragmented if sent
// alone. A refusal counts for its destination and for gsoNarrowFor, because routes change.
type gsoLimits struct {
	supported bool // by the kernel; set before use

	mu     sync.Mutex                               // held to replace narrow
	narrow atomic.Pointer[map[netip.Addr]gsoNarrow] // nil: no limits
}

// gsoNarrow is the limit of one destination.
type gsoNarrow struct {
	size  int // of the largest datagram; 0: UDP_SEGMENT does not work
	until time.Time
}

const (
	gsoNarrowFor = 10 * time.Minute
	gsoNarrowMax = 256 // destinations with a limit; when there are more, all limits are dropped
)

// of returns the largest datagram for UDP_SEGMENT to a destination, 0 if it must not be used.
func (g *gsoLimits) of(to netip.Addr) int {
	if !g.supported {
		return 0
	}
	all := g.narrow.Load()
	if all == nil {
		return maxUDPPayload
	}
	if n, ok := (*all)[to]; ok && time.Now().Before(n.until) {
		return n.size
	}
	return maxUDPPayload
}

// lower notes that UDP_SEGMENT did not work for datagrams of more than size bytes.
func (g *gsoLimits) lower(to netip.Addr, size int, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make(map[netip.Addr]gsoNarrow)
	if old := g.narrow.Load(); old != nil {
		maps.Copy(all, *old)
	}
	maps.DeleteFunc(all, func(_ netip.Addr, n gsoNarrow) bool { return !now.Before(n.until) })
	if len(all) >= gsoNarrowMax {
		clear(all)
	}
	if n, ok := all[to]; ok {
		size = min(size, n.size)
	}
	all[to] = gsoNarrow{size, now.Add(gsoNarrowFor)}
	g.narrow.Store(&all)
}
