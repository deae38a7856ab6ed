package proxy

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/internal/share"
)

// busyTime is how long an association counts as busy after a datagram. A busy one never gives way to
// a new one, so a flood of new ones cannot end those in use.
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

func (u *usage) at() time.Duration { return time.Duration(u.last.Load()) }

// user has a usage.
type user interface {
	comparable
	lastUsed() time.Duration // since epoch
}

// givesWay returns what a new one of a source takes the place of: of what the greediest source holds,
// that which has been unused for the longest time. If all of it is busy, its oldest gives way only to
// a source that holds less; otherwise nothing does, and the result is the zero value.
func givesWay[T user](held *share.Table[netip.Prefix, T], to netip.Prefix) (found T) {
	greediest, _, _ := held.Greediest()
	limit := time.Since(epoch) - busyTime
	for u := range held.All(greediest) {
		if at := u.lastUsed(); at <= limit {
			found, limit = u, at-1
		}
	}
	var none T
	if found != none {
		return found
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
		if evicted = givesWay(&as.open, source); evicted == nil {
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
