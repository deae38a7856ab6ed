package derp

import (
	"context"
	"net"
	"sync"
	"time"
)

// BatchSize is how many bytes go into one write: four full TLS records.
const BatchSize = 64 << 10

// Outbox owns the right to write to one connection. A sender that finds the connection idle writes
// at once in its own goroutine, because such a write never waits for the network (see [FrameConn]).
// All other senders queue, and one goroutine drains the queue. Frames that are sent before a
// connection is attached, or between two connections, stay in the queue within its limits.
//
//	            send                     backlog
//	idle ──────────────────► writing ───────────────► draining ─┐
//	  ▲                         │ nothing left            │     │ until nothing is left
//	  └─────────────────────────┴─────────────────────────┴─────┘
type Outbox struct {
	wg *sync.WaitGroup // of the owner; counts the draining goroutine

	mu      sync.Mutex
	queue   flowQueue
	conn    *FrameConn // nil while there is no connection
	rate    drainRate  // of conn
	writing bool       // a sender or the draining goroutine holds the right to write
	closed  bool
	waiters []*waiter     // senders that wait for room in the queue
	spare   []*waiter     // waiters to be used again
	idlec   chan struct{} // closed when nobody writes any more; nil unless somebody waits for that
}

// waiter is a sender that waits until its flow has room.
type waiter struct {
	id    FlowID
	need  int // bytes
	roomc chan struct{}
	timer *time.Timer
}

// NewOutbox returns an outbox without a connection. wg belongs to the owner of the outbox and
// counts its goroutine. budget bounds its memory together with that of other outboxes.
func NewOutbox(wg *sync.WaitGroup, limits *QueueLimits, b *Budget, l FrameCounter) *Outbox {
	return &Outbox{wg: wg, queue: flowQueue{limits: limits, budget: b, counter: l}}
}

// SendResult tells what Send did with frames that it could not pass on at once.
type SendResult struct {
	Waited  time.Duration
	Dropped int // bytes
}

// Send writes or queues whole frames of one flow. If the flow has no room, Send waits for it, at
// most for patience. It does not wait if another sender has waited for this flow in vain. Frames
// that find no room are dropped and counted. The only error is net.ErrClosed.
func (o *Outbox) Send(id FlowID, frames []byte, patience time.Duration) (SendResult, error) {
	var waited time.Duration
	o.mu.Lock()
	if o.idleLocked() && len(frames) <= LargeBuffer {
		o.sendDirectLocked(id.Class, frames)
		o.mu.Unlock()
		return SendResult{}, nil
	}
	for !o.closed {
		now := time.Now()
		frames = o.queue.push(id, frames, now)
		o.startLocked()
		if len(frames) == 0 {
			o.mu.Unlock()
			return SendResult{Waited: waited}, nil
		}
		if waited >= patience {
			if patience > 0 {
				o.queue.refuse(id)
			}
			break
		}
		if o.queue.refuses(id) {
			break
		}
		o.waitLocked(id, len(frames), patience-waited)
		waited += time.Since(now)
	}
	reason, err := dropQueueTail, error(nil)
	if o.closed {
		reason, err = dropGone, net.ErrClosed
	}
	o.mu.Unlock()
	o.queue.counter.Dropped(id.Class, reason, frames)
	return SendResult{Waited: waited, Dropped: len(frames)}, err
}

// idleLocked reports whether a sender may write in its own goroutine.
func (o *Outbox) idleLocked() bool {
	return o.conn != nil && o.conn.nonblocking() && !o.writing && o.queue.empty() && !o.closed
}

// sendDirectLocked writes in the caller's goroutine. Meanwhile it holds the right to write, but not
// the lock.
func (o *Outbox) sendDirectLocked(c Class, frames []byte) {
	o.writing = true
	w := o.conn
	o.mu.Unlock()
	err := o.write(w, c, frames)
	o.mu.Lock()
	if err != nil {
		o.forgetConnLocked(w)
	} else if !o.closed && (w.pending() || !o.queue.empty()) {
		o.wg.Go(o.drain)
		return
	}
	o.endWriteLocked()
}

// waitLocked waits until the flow has room for need bytes, until d has passed, or until the outbox
// is closed. It releases the lock meanwhile.
func (o *Outbox) waitLocked(id FlowID, need int, d time.Duration) {
	w := o.newWaiterLocked(d)
	w.id, w.need = id, need
	o.waiters = append(o.waiters, w)
	o.mu.Unlock()
	select {
	case <-w.roomc:
	case <-w.timer.C:
	}
	o.mu.Lock()
	w.timer.Stop()
	for i, other := range o.waiters {
		if other == w {
			o.waiters = append(o.waiters[:i], o.waiters[i+1:]...)
			break
		}
	}
	select {
	case <-w.roomc: // woken and timed out at once
	default:
	}
	o.spare = append(o.spare, w)
}

func (o *Outbox) newWaiterLocked(d time.Duration) *waiter {
	n := len(o.spare)
	if n == 0 {
		return &waiter{roomc: make(chan struct{}, 1), timer: time.NewTimer(d)}
	}
	w := o.spare[n-1]
	o.spare = o.spare[:n-1]
	w.timer.Reset(d)
	return w
}

// wakeLocked wakes the waiters whose flows now have room.
func (o *Outbox) wakeLocked() {
	kept := o.waiters[:0]
	for _, w := range o.waiters {
		if o.closed || o.queue.hasRoom(w.id, w.need) {
			w.roomc <- struct{}{} // does not block: capacity 1, and w leaves the list
			continue
		}
		kept = append(kept, w)
	}
	clear(o.waiters[len(kept):])
	o.waiters = kept
}

// startLocked starts the draining goroutine unless somebody is writing.
func (o *Outbox) startLocked() {
	if o.conn != nil && !o.writing && !o.closed {
		o.writing = true
		o.wg.Go(o.drain)
	}
}

// StartDrain writes the bytes that the connection holds back; see [FrameConn.Start].
func (o *Outbox) StartDrain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.startLocked()
}

// drain writes until the queue is empty, the connection has failed or the outbox is closed.
func (o *Outbox) drain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	w, now := o.conn, time.Now()
	if o.rate.start(now) && w != nil {
		o.queue.packetLimit = 0
		w.holdUnsent(mostUnsent)
	}
	for w != nil && !o.closed && o.conn == w {
		s, ok := o.queue.next(quantum, now)
		o.wakeLocked()
		if !ok && !w.pending() {
			break
		}
		o.mu.Unlock()
		err := o.writeAndFlush(w, s)
		o.mu.Lock()
		now = time.Now()
		if o.conn == w && o.rate.add(len(s.frames), now) {
			o.adaptLocked()
		}
		if ok {
			o.queue.release(s)
		}
		if err != nil {
			o.forgetConnLocked(w)
		}
	}
	o.endWriteLocked()
}

// adaptLocked fits the limits of the queue, and of the bytes that the system holds unsent, to the
// rate of the connection.
func (o *Outbox) adaptLocked() {
	o.queue.packetLimit = o.rate.bytesIn(queueSpan, minQueue, maxQueue)
	o.conn.holdUnsent(o.rate.bytesIn(unsentSpan, leastUnsent, mostUnsent))
}

// writeAndFlush first writes what earlier writes left behind, then the span, which may be empty.
func (o *Outbox) writeAndFlush(w *FrameConn, s span) error {
	if err := o.flush(w); err != nil || len(s.frames) == 0 {
		if len(s.frames) > 0 {
			o.queue.counter.Dropped(s.class, dropWriteError, s.frames)
		}
		return err
	}
	if err := o.write(w, s.class, s.frames); err != nil {
		return err
	}
	return o.flush(w)
}

// write writes frames to the connection and counts them. If the write fails, it fails the
// connection; the goroutine that reads from the connection learns the cause there. The caller holds
// the right to write.
func (o *Outbox) write(w *FrameConn, c Class, frames []byte) error {
	err := w.write(frames)
	if err != nil {
		o.queue.counter.Dropped(c, dropWriteError, frames)
		w.Fail(err)
	} else {
		o.queue.counter.Sent(c, frames)
	}
	return err
}

func (o *Outbox) flush(w *FrameConn) error {
	err := w.flush()
	if err != nil {
		w.Fail(err)
	}
	return err
}

// forgetConnLocked forgets a connection that failed.
func (o *Outbox) forgetConnLocked(w *FrameConn) {
	if o.conn == w {
		o.conn = nil
	}
}

// endWriteLocked gives up the right to write.
func (o *Outbox) endWriteLocked() {
	o.writing = false
	if o.closed {
		o.queue.discard(dropGone)
	} else if !o.queue.empty() {
		o.startLocked() // another connection was attached, or frames came since the last look
	}
	if o.idlec != nil && !o.writing {
		close(o.idlec)
		o.idlec = nil
	}
}

// Attach makes w the connection to write to, and starts to send what is queued. After Close it does
// nothing.
func (o *Outbox) Attach(w *FrameConn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.conn = w
	o.rate, o.queue.packetLimit = drainRate{}, 0
	if !o.queue.empty() {
		o.startLocked()
	}
}

// Detach closes the connection and waits until nobody writes to it any more. The queue keeps its
// frames for the next connection.
func (o *Outbox) Detach() {
	o.mu.Lock()
	w, idlec := o.conn, o.idlecLocked()
	o.conn = nil
	o.mu.Unlock()
	if w != nil {
		w.Fail(net.ErrClosed)
	}
	if idlec != nil {
		<-idlec
	}
}

// WaitIdle waits until nothing is left to be written, or until ctx ends.
func (o *Outbox) WaitIdle(ctx context.Context) {
	o.mu.Lock()
	idlec := o.idlecLocked()
	o.mu.Unlock()
	if idlec != nil {
		select {
		case <-idlec:
		case <-ctx.Done():
		}
	}
}

// idlecLocked returns a channel that is closed when nobody writes any more. It is nil if nobody
// writes now.
func (o *Outbox) idlecLocked() chan struct{} {
	if o.writing && o.idlec == nil {
		o.idlec = make(chan struct{})
	}
	return o.idlec
}

// Close drops what is queued and ends all waiting; later sends fail. A running drain ends with its
// current write: the owner must close the connection.
func (o *Outbox) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.closed = true
	o.conn = nil
	o.wakeLocked()
	if !o.writing {
		o.queue.discard(dropGone)
	}
}
