package proxy

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/internal/share"
)

// busyTime is how long an association counts as busy after a datagram. A busy one gives way only to
// a client that has fewer, so a flood of new ones does not end those in use.
const busyTime = time.Second

// epoch is what usage counts time from.
var epoch = time.Now()

// usage tells when a datagram last passed.
type usage struct {
	moved atomic.Bool  // one has passed since the idle timer last looked
	last  atomic.Int64 // when one passed, in nanoseconds since epoch
}

func (u *usage) touch() {
	u.moved.Store(true)
	u.last.Store(int64(time.Since(epoch)))
}

// lastUsed is the time since epoch.
func (u *usage) lastUsed() time.Duration { return time.Duration(u.last.Load()) }

// givesWay returns what a new one of a source takes the place of: of what the greediest source
// holds, that which has been unused for the longest time. If all of it is busy, its oldest gives
// way only to a source that holds less; otherwise nothing does, and the result is the zero value.
func givesWay[T comparable](
	held *share.Table[netip.Prefix, T], to netip.Prefix, used func(T) time.Duration,
) (found T) {
	var none T
	if idlest, ok := share.Idlest(held, used); ok && time.Since(epoch)-used(idlest) >= busyTime {
		return idlest
	}
	if _, oldest, ok := held.Claim(to); ok {
		return oldest
	}
	return none
}

// udpState is what a Server keeps for datagrams.
type udpState struct {
	slabs        slabs
	associations associations
}

// associations are the UDP associations that are open, by the address of the client.
type associations struct {
	mu   sync.Mutex
	open share.Table[netip.Prefix, *association]
}

// add adds an association. When there are limit already, another is removed and returned; if none
// gives way, add reports false.
func (as *associations) add(a *association, client netip.Addr, limit int) (evicted *association, ok bool) {
	source := share.SourceOf(client)
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.open.Len() >= limit {
		if evicted = givesWay(&as.open, source, (*association).lastUsed); evicted == nil {
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
