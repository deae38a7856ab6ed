package proxy

import (
	"iter"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
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

// idlest returns the one that has been unused for the longest time, or the zero value if all are busy.
func idlest[T user](all iter.Seq[T]) (found T) {
	limit := time.Since(epoch) - busyTime
	for u := range all {
		if at := u.lastUsed(); at <= limit {
			found, limit = u, at-1
		}
	}
	return found
}

// udpState is what a Server keeps for datagrams.
type udpState struct {
	slabs        slabs
	associations associations
}

// associations are the UDP associations that are open.
type associations struct {
	mu   sync.Mutex
	open map[*association]netip.Addr // with the client's address
}

// add adds an association. When there are limit already, the one that has been unused for the
// longest time is removed and returned: of the client that has most of them, so that no client takes
// what others use. If that client's are all busy, add reports false.
func (as *associations) add(a *association, client netip.Addr, limit int) (evicted *association, ok bool) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if len(as.open) >= limit {
		if evicted = idlest(as.ofLocked(as.greediestLocked())); evicted == nil {
			return nil, false
		}
		delete(as.open, evicted)
	}
	if as.open == nil {
		as.open = make(map[*association]netip.Addr)
	}
	as.open[a] = client
	return evicted, true
}

func (as *associations) remove(a *association) {
	as.mu.Lock()
	defer as.mu.Unlock()
	delete(as.open, a)
}

// greediestLocked is the client that has most associations.
func (as *associations) greediestLocked() (client netip.Addr) {
	count := make(map[netip.Addr]int)
	for _, c := range as.open {
		if count[c]++; count[c] > count[client] {
			client = c
		}
	}
	return client
}

func (as *associations) ofLocked(client netip.Addr) iter.Seq[*association] {
	return func(yield func(*association) bool) {
		for a, c := range as.open {
			if c == client && !yield(a) {
				return
			}
		}
	}
}
