// Package simnet simulates an internet in memory, for tests: hosts with UDP sockets, NATs, and
// links that delay and drop datagrams or are down. It is made for testing/synctest and works
// outside of a bubble too. A Net must be used only in the bubble in which it was made.
//
//	            internet
//	link │         │ link        │ link
//	   Host       NAT           NAT       a NAT may be behind another
//	           link │       link │ │ link
//	              Host        Host Host   reach each other without their NAT
//
// A datagram crosses the sender's link, the links of the NATs on its way, and the receiver's link,
// and their delays add up.
//
// A test is reproducible: events at the same time happen in the order of sending. Which datagrams
// are lost depends only on the seed and on how many the sender has sent to the same destination
// before.
//
// Goroutines: only those of timers, when datagrams arrive or a deadline passes. Net.Close waits for
// the former.
package simnet

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// maxInFlight bounds the datagrams on all links. Further ones are dropped, and counted as
// QueueFull.
const maxInFlight = 1 << 16

// Net is a simulated internet. New makes one.
type Net struct {
	seed    uint64
	pending sync.WaitGroup // timers that have not run yet

	mu       sync.Mutex // guards the fields below, and the hosts, NATs and conns
	internet *segment
	events   eventQueue
	timer    *time.Timer
	seq      uint64 // of the last event
	hosts    int
	sent     map[flow]uint64
	cuts     map[pair]struct{}
	conns    map[*Conn]struct{}
	stats    Stats
	closed   bool
}

// Stats counts datagrams by their fate. Those that are only in Sent are still on their way.
type Stats struct {
	Sent      int
	Delivered int // added to the queue of a Conn
	Lost      int // dropped by the Loss of a link
	Down      int // dropped at a link that is down, or by Cut
	TooBig    int // larger than the MTU of a link
	Filtered  int // dropped by a NAT
	NoRoute   int // sent to an address that no device has
	NoSocket  int // sent to a port without a socket
	QueueFull int // exceeded maxQueue or maxInFlight
}

// flow identifies the datagrams from one socket to one destination.
type flow struct {
	host int
	port uint16
	to   netip.AddrPort
}

// pair is an ordered pair of hosts.
type pair struct{ from, to *Host }

// New returns an empty internet. The seed decides which datagrams are lost.
func New(seed uint64) *Net {
	return &Net{
		seed:     seed,
		internet: &segment{devices: make(map[netip.Addr]device)},
		sent:     make(map[flow]uint64),
		cuts:     make(map[pair]struct{}),
		conns:    make(map[*Conn]struct{}),
	}
}

// Cut drops every datagram from one host to the other on all paths, including those on their way
// now. It does not affect the other direction.
func (n *Net) Cut(from, to *Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[pair{from, to}] = struct{}{}
}

// Restore ends a Cut.
func (n *Net) Restore(from, to *Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cuts, pair{from, to})
}

// Stats returns the counters so far.
func (n *Net) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// Close closes all conns and drops the datagrams on their way.
func (n *Net) Close() error {
	n.shut()
	n.pending.Wait()
	return nil
}

func (n *Net) shut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.events = nil
	if n.timer != nil && n.timer.Stop() {
		n.pending.Done()
	}
	for c := range n.conns {
		c.closeLocked()
	}
}

// packet is a datagram on its way.
type packet struct {
	src, dst netip.AddrPort // as translated by the NATs so far
	payload  []byte
	from     *Host
	dice     *rand.Rand // decides whether a link loses it
}

// size returns the size of the IP packet.
func (p *packet) size() int {
	if p.dst.Addr().Is4() {
		return 20 + 8 + len(p.payload)
	}
	return 40 + 8 + len(p.payload)
}

// packetLocked makes a packet. It has a random source of its own, so that other traffic does not
// change its fate.
func (n *Net) packetLocked(from *Host, src, dst netip.AddrPort, b []byte) *packet {
	f := flow{from.id, src.Port(), dst}
	hash := fnv.New64a()
	fmt.Fprint(hash, f)
	count := n.sent[f]
	n.sent[f]++
	n.stats.Sent++
	dice := rand.New(rand.NewPCG(n.seed^binary.BigEndian.Uint64(hash.Sum(nil)), count))
	return &packet{src: src, dst: dst, payload: append([]byte(nil), b...), from: from, dice: dice}
}

// event is what happens to a packet at a time.
type event struct {
	at  time.Time
	seq uint64              // orders events of the same time
	run func(now time.Time) // called with mu held
}

// afterLocked schedules run after delay.
func (n *Net) afterLocked(now time.Time, delay time.Duration, run func(now time.Time)) {
	if len(n.events) >= maxInFlight {
		n.stats.QueueFull++
		return
	}
	n.seq++
	heap.Push(&n.events, event{now.Add(delay), n.seq, run})
}

// runLocked runs the events that are due, and sets the timer for the next one.
func (n *Net) runLocked(now time.Time) {
	for len(n.events) > 0 && !n.events[0].at.After(now) {
		e := heap.Pop(&n.events).(event)
		e.run(e.at)
	}
	if len(n.events) == 0 || n.closed {
		return
	}
	wait := time.Until(n.events[0].at)
	switch {
	case n.timer == nil:
		n.pending.Add(1)
		n.timer = time.AfterFunc(wait, n.tick)
	case !n.timer.Reset(wait): // it was not running, so there will be one more tick
		n.pending.Add(1)
	}
}

// tick is called by the timer.
func (n *Net) tick() {
	defer n.pending.Done()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.runLocked(time.Now())
}

// eventQueue implements heap.Interface.
type eventQueue []event

func (q eventQueue) Len() int      { return len(q) }
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q eventQueue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].seq < q[j].seq
	}
	return q[i].at.Before(q[j].at)
}
func (q *eventQueue) Push(e any) { *q = append(*q, e.(event)) }
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}
