package udpbatch

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// gsoLimits are the sizes of datagrams that UDP_SEGMENT works for. It works for all that fit into a
// message unless the system has refused one: a device without checksum offload refuses all, and a
// route with a small MTU those that it would fragment if they came alone. That holds for the
// destination, and for some time only, because routes and devices change.
type gsoLimits struct {
	supported bool // by the kernel; set before use

	mu     sync.Mutex                               // of those who replace it
	narrow atomic.Pointer[map[netip.Addr]gsoNarrow] // nil: there are none
}

// gsoNarrow is the limit of one destination.
type gsoNarrow struct {
	size  int // of the largest datagram; 0: UDP_SEGMENT does not work
	until time.Time
}

const (
	gsoNarrowFor = 10 * time.Minute
	gsoNarrowMax = 256 // destinations; then all are tried anew
)

// of returns the limit of a destination, 0 if UDP_SEGMENT must not be used.
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
