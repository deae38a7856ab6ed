// Package simnet is an internet in memory, for tests only: hosts with UDP sockets, the NATs before
// them, and links that delay, lose and break. It is made for testing/synctest and works outside of
// a bubble too; a Net belongs into the bubble that made it.
//
//	            internet
//	link │         │ link        │ link
//	   Host       NAT           NAT       NATs may stand behind NATs
//	           link │       link │ │ link
//	              Host        Host Host   reach each other without their NAT
//
// A datagram takes the sender's link, the links of the NATs on the way out and in, and the
// receiver's link, and the delays of all of them. What happens at the same time happens in the
// order of sending, and which datagrams are lost depends on the seed and on how many the sender
// sent to that destination before: a test sees the same net every time.
//
// The only goroutines are those of timers, for the moment in which datagrams arrive or a deadline
// passes; Net.Close waits for the former.
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

// maxInFlight bounds the datagrams on all links; the newest is dropped, and counted as QueueFull.
const maxInFlight = 1 << 16

// Net is the whole of it. Only New makes one.
type Net struct {
	seed    uint64
	pending sync.WaitGroup // timers that have yet to run

	mu       sync.Mutex // guards all that follows, and the hosts, NATs and conns
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

// Stats tells what became of datagrams. What is Sent and not counted elsewhere is on its way.
type Stats struct {
	Sent      int
	Delivered int // into the queue of a Conn
	Lost      int // by the Loss of a link
	Down      int // at a link that is down, or between hosts that are cut off
	TooBig    int // for the MTU of a link
	Filtered  int // by a NAT
	NoRoute   int // to an address that nobody has
	NoSocket  int // to a port that nobody listens at
	QueueFull int // at a Conn that is not read, or too many in flight
}

// flow is what one socket sends to one destination.
type flow struct {
	host int
	port uint16
	to   netip.AddrPort
}

// pair is a direction between two hosts.
type pair struct{ from, to *Host }

// New makes an empty internet. The seed decides which datagrams are lost.
func New(seed uint64) *Net {
	return &Net{
		seed:     seed,
		internet: &segment{devices: make(map[netip.Addr]device)},
		sent:     make(map[flow]uint64),
		cuts:     make(map[pair]struct{}),
		conns:    make(map[*Conn]struct{}),
	}
}

// Cut drops every datagram that would arrive at one host from the other, whatever its way,
// including those that are on their way now. The other direction takes a call of its own.
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

// Close closes every conn and drops what is on its way.
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
	src, dst netip.AddrPort // as the NATs so far have made them
	payload  []byte
	from     *Host
	dice     *rand.Rand // decides what links do to it
}

// size is that of the IP packet.
func (p *packet) size() int {
	if p.dst.Addr().Is4() {
		return 20 + 8 + len(p.payload)
	}
	return 40 + 8 + len(p.payload)
}

// packetLocked makes a packet, with dice that are its own: whatever else is under way at the time
// cannot change how they fall.
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

// event is something that happens to a packet at a time.
type event struct {
	at  time.Time
	seq uint64 // order among those of the same time
	run func(now time.Time)
}

// afterLocked has run called, with the lock held, when delay has passed.
func (n *Net) afterLocked(now time.Time, delay time.Duration, run func(now time.Time)) {
	if len(n.events) >= maxInFlight {
		n.stats.QueueFull++
		return
	}
	n.seq++
	heap.Push(&n.events, event{now.Add(delay), n.seq, run})
}

// runLocked lets happen what is due, and sets the timer for what is not.
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
	case !n.timer.Reset(wait): // it was not set: one more tick will come
		n.pending.Add(1)
	}
}

// tick is the timer's goroutine.
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
