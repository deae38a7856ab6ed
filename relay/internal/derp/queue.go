package derp

import (
	"time"

	"ginnel/key"
)

// Class separates the kinds of frames in a queue, so that no kind can displace another.
type Class uint8

const (
	ClassData    Class = iota // packets
	ClassDisco                // packets that look like disco: small, rare, needed to find a direct path
	ClassControl              // KeepAlive, PeerGone, PeerPresent, Restarting
	ClassPong                 // at most one is queued (3.11)
	NumClasses
)

// FlowID names a flow: the frames of one class from one sender. In a client's queue, it is the
// frames of one class to one receiver.
type FlowID struct {
	Peer  key.NodePublic
	Class Class
}

// quantum is how many bytes a flow may send in each round of deficit round robin: one TLS record.
const quantum = RecordBuffer

// minFlowShare is how many bytes a flow may queue, however many other flows there are.
const minFlowShare = 8 << 10

// DropReason tells why packets were dropped (4.3).
type DropReason uint8

const (
	DropUnknownDest DropReason = iota
	DropUnknownDestOnForward
	dropGone       // the receiver left while they were queued
	dropQueueHead  // too old
	dropQueueTail  // no room
	dropWriteError // the connection failed while they were written
	NumDropReasons
)

// String returns the reason as the metrics name it.
func (r DropReason) String() string {
	return [NumDropReasons]string{"unknown_dest", "unknown_dest_on_fwd", "gone_disconnected",
		"queue_head", "queue_tail", "write_error"}[r]
}

// FrameCounter counts the frames that leave a queue. It must be safe for concurrent use.
type FrameCounter interface {
	Sent(c Class, frames []byte)
	Dropped(c Class, reason DropReason, frames []byte)
}

// QueueLimits bounds the queue of an outbox.
type QueueLimits struct {
	Flow   [NumClasses]int // bytes that one flow may queue
	Total  int             // bytes that all flows share when there are many
	MaxAge time.Duration   // older packets are dropped instead of being sent
}

// flowQueue holds the frames that wait for one connection. Its flows take turns by deficit round
// robin (Shreedhar and Varghese, 1995). It is bounded for each flow, over all flows, in time, and
// by a budget that it shares with other queues. It has no lock, clock or goroutine of its own: its
// outbox has.
type flowQueue struct {
	limits  *QueueLimits
	budget  *Budget
	counter FrameCounter
	// packetLimit, unless it is 0, replaces the limits for packets: it is what the connection takes
	// in queueSpan.
	packetLimit int

	flows   map[FlowID]*flow
	current *flow // the next flow in the ring of flows; nil if the queue is empty
	unused  *flow // list of flow structs to be used again
}

type flow struct {
	id         FlowID
	prev, next *flow
	head, tail *block
	bytes      int
	deficit    int
	// refusing is set after a sender waited for room in vain, so that other senders drop at once
	// instead. It ends when half of the flow has drained.
	refusing bool
}

// block is a part of a flow: whole frames, one behind the other.
type block struct {
	next    *block
	buf     *buffer
	b       []byte    // the frames not yet taken; grows in place up to its capacity
	since   time.Time // arrival of the first frame
	writing bool      // a span of the block is being written
}

// span is a run of whole frames of one flow, taken out of the queue to be written.
type span struct {
	class  Class
	frames []byte
	block  *block
	last   bool // no other frames of the block are left: the block is freed with the span
}

func (q *flowQueue) empty() bool { return q.current == nil }

// push appends as many whole frames as there is room for, and returns the others.
func (q *flowQueue) push(id FlowID, frames []byte, now time.Time) (rest []byte) {
	f := q.flows[id]
	room := q.room(f, id.Class)
	for f != nil && room < len(frames) && q.expire(f, now) {
		f = q.flows[id]
		room = q.room(f, id.Class)
	}
	if f == nil && len(frames) > 0 {
		room = max(room, FrameSize(frames)) // an empty flow takes one frame of any size
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

// room returns how many more bytes the flow f may queue. f is nil if the flow does not exist yet.
func (q *flowQueue) room(f *flow, c Class) int {
	if f == nil {
		return q.limit(c, len(q.flows)+1)
	}
	return q.limit(c, len(q.flows)) - f.bytes
}

// limit returns how many bytes each flow of a class may queue while there are so many flows.
func (q *flowQueue) limit(c Class, flows int) int {
	limit, total := q.limits.Flow[c], q.limits.Total
	if q.packetLimit > 0 {
		total = q.packetLimit // bytes that all flows share when there are many
		if c == ClassData {
			limit = q.packetLimit
		}
	}
	if c == ClassData || c == ClassDisco {
		limit = min(limit, max(total/flows, minFlowShare))
	}
	return limit
}

// hasRoom reports whether to wake a sender that found the flow full and has need bytes to queue.
// There must be room for them, and for a quarter of the flow's limit, so that the sender is not
// woken for each frame that leaves. Room for half of the limit is always enough.
func (q *flowQueue) hasRoom(id FlowID, need int) bool {
	f := q.flows[id]
	if f == nil {
		return true
	}
	limit := q.limit(id.Class, len(q.flows))
	return limit-f.bytes >= min(max(need, limit/4), limit/2)
}

// newBlock returns a block for the first of frames. It returns nil if that frame exceeds room or
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

// next takes the next span: at least one frame, and otherwise at most maxBytes. The caller returns
// the span with release.
func (q *flowQueue) next(maxBytes int, now time.Time) (span, bool) {
	for q.current != nil {
		f := q.current
		if q.expire(f, now) {
			continue
		}
		size := wholeFrames(f.head.b, min(f.deficit, maxBytes))
		if first := FrameSize(f.head.b); size == 0 && first <= f.deficit {
			size = first // a frame larger than maxBytes goes alone
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

// take removes size bytes from the head of f.
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

// release returns the memory of a span.
func (q *flowQueue) release(s span) {
	if s.last {
		q.freeBlock(s.block)
	} else {
		s.block.writing = false
	}
}

// expire drops the first block of f if it is too old, and reports whether it did.
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

// discard drops all frames.
func (q *flowQueue) discard(reason DropReason) {
	for q.current != nil {
		s := q.take(q.current, len(q.current.head.b))
		q.counter.Dropped(s.class, reason, s.frames)
		q.release(s)
	}
	q.flows, q.unused = nil, nil
}

// refuse makes senders to this flow drop at once instead of waiting for room.
func (q *flowQueue) refuse(id FlowID) {
	if f := q.flows[id]; f != nil {
		f.refusing = true
	}
}

// refuses reports whether waiting for room in the flow is pointless. That is so if refuse was
// called, or if the flow is empty: then the budget is what is exhausted.
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

// room returns how many bytes may be added to the block. It is 0 once the block has waited for a
// quarter of maxAge, because the frames of a block expire together.
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

// wholeFrames returns the size of the longest prefix of frames that consists of whole frames and is
// at most limit.
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

// CountFrames returns the number of frames.
func CountFrames(frames []byte) int {
	n := 0
	for len(frames) > 0 {
		frames = frames[FrameSize(frames):]
		n++
	}
	return n
}
