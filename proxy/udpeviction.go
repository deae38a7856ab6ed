package proxy

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/internal/share"
)

// busyTime is how long an association counts as busy after a datagram. A busy one is evicted only
// for a client that has fewer, so that a flood of new associations does not end those in use.
const busyTime = time.Second

// epoch is the start of the times in usage.
var epoch = time.Now()

// usage records when a datagram last passed through an association or a UDP session.
type usage struct {
	active atomic.Bool  // a datagram has passed since the last check for idleness
	last   atomic.Int64 // when the last one passed, in nanoseconds since epoch
}

func (u *usage) touch() {
	u.active.Store(true)
	u.last.Store(int64(time.Since(epoch)))
}

// lastUsed returns a time since epoch.
func (u *usage) lastUsed() time.Duration { return time.Duration(u.last.Load()) }

// toEvict returns which of held is to be evicted for a new one of source: of what the source with
// the most holds, the one that has been unused for longest. If all of these are busy, their oldest
// is evicted, but only if source holds fewer. If none may be evicted, toEvict returns the zero
// value.
func toEvict[T comparable](
	held *share.Table[netip.Prefix, T], source netip.Prefix, lastUsed func(T) time.Duration,
) (evicted T) {
	if idlest, ok := share.Idlest(held, lastUsed); ok && time.Since(epoch)-lastUsed(idlest) >= busyTime {
		return idlest
	}
	if _, oldest, ok := held.Claim(source); ok {
		return oldest
	}
	return evicted
}

// udpState is the state of a Server that concerns datagrams.
type udpState struct {
	batches      batchPool
	associations associations
}

// associations holds the open UDP associations, grouped by the address of the client.
type associations struct {
	mu   sync.Mutex
	open share.Table[netip.Prefix, *association]
}

// add adds a. If there are already limit associations it removes and returns another. If none may
// be evicted, a is not added, and ok is false.
func (as *associations) add(a *association, client netip.Addr, limit int) (evicted *association, ok bool) {
	source := share.SourceOf(client)
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.open.Len() >= limit {
		if evicted = toEvict(&as.open, source, (*association).lastUsed); evicted == nil {
			return nil, false
		}
		as.open.Remove(evicted)
	}
	as.open.Add(source, a)
	return evicted, true
}

func (as *associations) remove(a *association) {
	as.mu.Lock()
	defer as.mu.Unlock()
	as.open.Remove(a)
}
