package derp

import (
	"time"

	"ginnel/internal/key"
)

// Class keeps kinds of frames apart in a queue, so that none of them can push out another.
type Class uint8

const (
	ClassData    Class = iota // packets
	ClassDisco                // packets that look like disco: small, rare and needed to leave the relay
	ClassControl              // KeepAlive, PeerGone, PeerPresent, Restarting
	ClassPong                 // at most one is pending, as section 3.11 has it
	NumClasses
)

// FlowID names a flow: the frames of one class from one sender (in a client's queue: to one
// receiver).
type FlowID struct {
	Peer  key.NodePublic
	Class Class
}

// quantum is the share in bytes that a flow gets per turn: one TLS record.
const quantum = RecordBuffer

// minFlowShare is what a flow may queue however many other flows there are.
const minFlowShare = 8 << 10

// DropReason tells why packets were dropped (4.3).
type DropReason uint8

const (
	DropUnknownDest DropReason = iota
	DropUnknownDestOnForward
	dropGone       // the receiver left while they were queued
	dropQueueHead  // too old
	dropQueueTail  // no room
	dropWriteError // the connection broke while they were written
	NumDropReasons
)

// String returns the reason as the metrics name it.
func (r DropReason) String() string {
	return [NumDropReasons]string{"unknown_dest", "unknown_dest_on_fwd", "gone_disconnected",
		"queue_head", "queue_tail", "write_error"}[r]
}

// ledger counts what becomes of the frames of a queue. It must be safe for concurrent use.
type ledger interface {
	Sent(c Class, frames []byte)
	Dropped(c Class, reason DropReason, frames []byte)
}

// QueueLimits bounds a flowQueue.
type QueueLimits struct {
	Flow   [NumClasses]int // bytes that one flow may queue
	Total  int             // bytes that the flows share out among them when there are many
	MaxAge time.Duration   // packets older than this are dropped instead of being sent
}

// flowQueue holds the frames that wait for one connection, in flows that take turns by deficit
// round robin; a flow exists only while it is not empty. It is bounded for each flow, over all
// flows, in time, and by a budget shared with other queues. It has no lock, clock or goroutine: its
// outbox has.
type flowQueue struct {
	limits  *QueueLimits
	budget  *Budget
	counter ledger
	// packets, where it is not 0, takes the place of the limits for packets: what the connection takes
	// in queueSpan.
	packetLimit int

	flows   map[FlowID]*flow
	current *flow // the flow to be served next, in a ring; nil if there is none
	unused  *flow // emptied flows to be used again
}

type flow struct {
	id         FlowID
	prev, next *flow
	head, tail *block
	bytes      int
	deficit    int
	// refusing is set when a sender waited in vain: others must not lose their time too. It ends when
	// half of the flow has drained.
	refusing bool
}

// block is a piece of a flow: whole frames one behind the other.
type block struct {
	next    *block
	buf     *buffer
	b       []byte    // the frames not yet taken; grows in place up to its capacity
	since   time.Time // arrival of the first of them
	writing bool      // a span of it is being written
}

// span is what a writer takes at a time: whole frames of one flow.
type span struct {
	class  Class
	frames []byte
	block  *block
	last   bool // nothing else of the block is left: it belongs to the span
}

func (q *flowQueue) empty() bool { return q.current == nil }

// push appends as many whole frames as there is room for and returns the others.
func (q *flowQueue) push(id FlowID, frames []byte, now time.Time) (rest []byte) {
	f := q.flows[id]
	room := q.room(f, id.Class)
	for f != nil && room < len(frames) && q.expire(f, now) {
		f = q.flows[id]
		room = q.room(f, id.Class)
	}
	if f == nil && len(frames) > 0 {
		room = max(room, FrameSize(frames)) // the largest frame must pass an empty queue
	}
	for len(frames) > 0 {
		if f == nil || wholeFrames(frames, min(room, f.tail.room(now, q.limits.MaxAge))) == 0 {
			blk := q.newBlock(frames, room, now)
			if blk == nil {
				return frames
			}
			if f == nil {
				f = q.addFlow(id)
			}
			f.append(blk)
		}
		n := wholeFrames(frames, min(room, cap(f.tail.b)-len(f.tail.b)))
		f.tail.b = append(f.tail.b, frames[:n]...)
		f.bytes += n
		room -= n
		frames = frames[n:]
	}
	return nil
}

// room returns how many bytes the flow f, nil if it does not exist, may still queue.
func (q *flowQueue) room(f *flow, c Class) int {
	if f == nil {
		return q.limit(c, len(q.flows)+1)
	}
	return q.limit(c, len(q.flows)) - f.bytes
}

// limit returns how many bytes a flow may queue that is one of so many.
func (q *flowQueue) limit(c Class, flows int) int {
	limit, total := q.limits.Flow[c], q.limits.Total
	if q.packetLimit > 0 {
		total = q.packetLimit
		if c == ClassData {
			limit = q.packetLimit
		}
	}
	if c == ClassData || c == ClassDisco {
		limit = min(limit, max(total/flows, minFlowShare))
	}
	return limit
}

// hasRoom reports whether it is worth waking a sender of need bytes that found the flow full: there
// is room for them and, lest it be woken for each frame that leaves, for a quarter of what the flow
// may hold; half of it always will do.
func (q *flowQueue) hasRoom(id FlowID, need int) bool {
	f := q.flows[id]
	if f == nil {
		return true
	}
	limit := q.limit(id.Class, len(q.flows))
	return limit-f.bytes >= min(max(need, limit/4), limit/2)
}

// newBlock returns a block into which the first of frames fits, or nil if that is more than room or
// the budget.
func (q *flowQueue) newBlock(frames []byte, room int, now time.Time) *block {
	first := FrameSize(frames)
	if first > room {
		return nil
	}
	size := smallBuffer
	if min(len(frames), room) > smallBuffer {
		size = RecordBuffer
	}
	buf := NewBuffer(max(size, first))
	if !q.budget.Take(len(buf.B)) {
		buf.Free()
		return nil
	}
	buf.block = block{buf: buf, b: buf.B[:0], since: now}
	return &buf.block
}

// next takes the next span, of one frame at least and otherwise of no more than most bytes. Give it
// back with release.
func (q *flowQueue) next(most int, now time.Time) (span, bool) {
	for q.current != nil {
		f := q.current
		if q.expire(f, now) {
			continue
		}
		size := wholeFrames(f.head.b, min(f.deficit, most))
		if first := FrameSize(f.head.b); size == 0 && first <= f.deficit {
			size = first // larger than that: alone
		}
		if size == 0 {
			f.deficit += quantum
			q.current = f.next
			continue
		}
		f.deficit -= size
		return q.take(f, size), true
	}
	return span{}, false
}

// take cuts size bytes off the head of f.
func (q *flowQueue) take(f *flow, size int) span {
	s := span{class: f.id.Class, frames: f.head.b[:size], block: f.head, last: size == len(f.head.b)}
	f.bytes -= size
	if s.last {
		f.shift()
	} else {
		s.block.b = s.block.b[size:]
		s.block.writing = true
	}
	if f.bytes*2 <= q.limit(f.id.Class, len(q.flows)) {
		f.refusing = false
	}
	if f.head == nil {
		q.removeFlow(f)
	}
	return s
}

// release gives back the memory of a span.
func (q *flowQueue) release(s span) {
	if s.last {
		q.freeBlock(s.block)
	} else {
		s.block.writing = false
	}
}

// expire drops the first block of f if it has waited too long, and reports whether it did.
func (q *flowQueue) expire(f *flow, now time.Time) bool {
	if f.id.Class == ClassControl || f.id.Class == ClassPong {
		return false
	}
	if f.head.writing || now.Sub(f.head.since) <= q.limits.MaxAge {
		return false
	}
	s := q.take(f, len(f.head.b))
	q.counter.Dropped(s.class, dropQueueHead, s.frames)
	q.release(s)
	return true
}

// discard drops everything.
func (q *flowQueue) discard(reason DropReason) {
	for q.current != nil {
		s := q.take(q.current, len(q.current.head.b))
		q.counter.Dropped(s.class, reason, s.frames)
		q.release(s)
	}
	q.flows, q.unused = nil, nil
}

// refuse marks the flow as one that nobody should wait for.
func (q *flowQueue) refuse(id FlowID) {
	if f := q.flows[id]; f != nil {
		f.refusing = true
	}
}

// refuses reports whether waiting for room in the flow is pointless: it is marked, or not the flow
// itself is full but everything.
func (q *flowQueue) refuses(id FlowID) bool {
	f := q.flows[id]
	return f == nil || f.refusing
}

func (q *flowQueue) addFlow(id FlowID) *flow {
	f := q.unused
	if f == nil {
		f = new(flow)
	} else {
		q.unused = f.next
	}
	*f = flow{id: id}
	if q.current == nil {
		f.prev, f.next = f, f
		q.current = f
	} else { // last in the ring
		f.prev, f.next = q.current.prev, q.current
		f.prev.next, f.next.prev = f, f
	}
	if q.flows == nil {
		q.flows = make(map[FlowID]*flow)
	}
	q.flows[id] = f
	return f
}

func (q *flowQueue) removeFlow(f *flow) {
	f.prev.next, f.next.prev = f.next, f.prev
	if q.current == f {
		q.current = f.next
	}
	if q.current == f {
		q.current = nil
	}
	delete(q.flows, f.id)
	*f = flow{next: q.unused}
	q.unused = f
}

func (q *flowQueue) freeBlock(b *block) {
	buf := b.buf
	*b = block{}
	q.budget.Give(len(buf.B))
	buf.Free()
}

// room returns how many bytes may be added. To a block that has waited for a good part of its time
// there is nothing to be added: its frames expire together.
func (b *block) room(now time.Time, maxAge time.Duration) int {
	if now.Sub(b.since) > maxAge/4 {
		return 0
	}
	return cap(b.b) - len(b.b)
}

func (f *flow) append(b *block) {
	if f.tail == nil {
		f.head = b
	} else {
		f.tail.next = b
	}
	f.tail = b
}

func (f *flow) shift() {
	b := f.head
	f.head, b.next = b.next, nil
	if f.head == nil {
		f.tail = nil
	}
}

// wholeFrames returns the size of the longest run of whole frames at the front of frames that is at
// most limit.
func wholeFrames(frames []byte, limit int) int {
	if len(frames) <= limit {
		return len(frames)
	}
	n := 0
	for {
		size := n + FrameSize(frames[n:])
		if size > limit {
			return n
		}
		n = size
	}
}

// CountFrames returns how many frames there are.
func CountFrames(frames []byte) int {
	n := 0
	for len(frames) > 0 {
		frames = frames[FrameSize(frames):]
		n++
	}
	return n
}
