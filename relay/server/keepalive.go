package server

import (
	"math/rand/v2"
	"sync"
	"time"

	"ginnel/relay/internal/derp"
)

const (
	keepAliveTick = time.Second
	// Each connection gets a KeepAlive every 20 to 24 s, however busy it is. derper sends one every 60
	// to 65 s (4.4), but HAProxy closes a connection that is idle for 50 s, and nginx after 60 s.
	keepAliveMin    = 20 // ticks
	keepAliveSpread = 4
	keepAliveSlots  = keepAliveMin + keepAliveSpread + 1
)

var keepAliveFrame = derp.AppendKeepAlive(nil)

// keepAlive is when a connection gets its KeepAlive frames.
type keepAlive struct {
	every int // ticks between two of them
	slot  int // of the next one
}

// keepAlives sends KeepAlive frames on all connections of a server. It is a timing wheel with slots
// of one second, turned by one goroutine that exists while there are connections.
type keepAlives struct {
	wg    *sync.WaitGroup
	stopc <-chan struct{}

	mu      sync.Mutex
	running bool
	now     int // the current slot
	size    int // number of connections
	slots   [keepAliveSlots]map[*serverConn]struct{}
}

// add starts keepalives on c.
func (k *keepAlives) add(c *serverConn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c.keepAlive.every = keepAliveMin + rand.IntN(keepAliveSpread)
	k.size++
	k.putLocked(c)
	if !k.running {
		k.running = true
		k.wg.Go(k.run)
	}
}

// remove ends the keepalives on c.
func (k *keepAlives) remove(c *serverConn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.size--
	delete(k.slots[c.keepAlive.slot], c)
}

func (k *keepAlives) putLocked(c *serverConn) {
	c.keepAlive.slot = (k.now + c.keepAlive.every) % keepAliveSlots
	if k.slots[c.keepAlive.slot] == nil {
		k.slots[c.keepAlive.slot] = make(map[*serverConn]struct{})
	}
	k.slots[c.keepAlive.slot][c] = struct{}{}
}

func (k *keepAlives) run() {
	ticker := time.NewTicker(keepAliveTick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-k.stopc:
			return
		}
		due, more := k.advance()
		for _, c := range due {
			c.out.Send(derp.FlowID{Class: derp.ClassControl}, keepAliveFrame, 0)
		}
		if !more {
			return
		}
	}
}

// advance moves on by one slot. It returns the connections that are due, and whether connections
// are left.
func (k *keepAlives) advance() (due []*serverConn, more bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now = (k.now + 1) % keepAliveSlots
	slot := k.slots[k.now]
	k.slots[k.now] = nil
	for c := range slot {
		due = append(due, c)
		k.putLocked(c)
	}
	k.running = k.size > 0
	return due, k.running
}
