package proxy

import (
	"net/netip"
	"sync"

	"ginnel/internal/share"
)

// waitingBytes is the room for datagrams that wait for a dial. Addresses share it: one may use
// waitingGreed times what is free, so some is always left for another (Choudhury and Hahne, "Dynamic
// Queue Length Thresholds", 1998).
type waitingBytes struct {
	mu       sync.Mutex
	total    int
	bySource map[netip.Prefix]int
}

const waitingGreed = 3

// take reserves n bytes for an address and reports whether there was room.
func (w *waitingBytes) take(from netip.Addr, n int) bool {
	source := share.SourceOf(from)
	w.mu.Lock()
	defer w.mu.Unlock()
	free := forwardBudget - w.total
	if n > free || w.bySource[source]+n > waitingGreed*free {
		return false
	}
	if w.bySource == nil {
		w.bySource = make(map[netip.Prefix]int)
	}
	w.bySource[source] += n
	w.total += n
	return true
}

func (w *waitingBytes) give(from netip.Addr, n int) {
	source := share.SourceOf(from)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.total -= n
	if w.bySource[source] -= n; w.bySource[source] == 0 {
		delete(w.bySource, source)
	}
}
