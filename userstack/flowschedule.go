package userstack

import (
	"container/heap"
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"ginnel/internal/snoop"
)

// quantum is how many packets a flow may send before the next flow gets its turn.
const quantum = 64

// flows are the flows of a queue and the order in which they are served: flows that may send now
// take turns, and the others wait for a time. The queue's mutex guards them.
type flows struct {
	clock tcpip.Clock
	start tcpip.MonotonicTime
	wake  func() // called by the timer, without the queue's mutex

	byID    map[flowID]*tcpFlow
	ended   snoop.Stats    // the sum of all flows that were removed
	active  ring[*tcpFlow] // flows that may send now, in the order of their turns
	waiting deadlineHeap   // flows that wait for a time
	timer   tcpip.Timer
	timerAt time.Duration // when the timer fires; 0 means that it does not

	sacks  [maxSACKBlocks]snoop.Block // reused for each packet
	probes ring[*tcpFlow]             // flows that must send a window probe

	windowLost []*tcpFlow   // flows whose gVisor window must be restored
	acks       *delayedAcks // told of data packets, which carry acknowledgements
}

// schedule is the place of a flow in the order of service.
type schedule struct {
	active    bool
	heapIndex int           // in flows.waiting, or -1
	due       time.Duration // when the flow is served, while it is in flows.waiting
}

func (fs *flows) init(clock tcpip.Clock, acks *delayedAcks, wake func()) {
	fs.clock, fs.start, fs.acks, fs.wake = clock, clock.NowMonotonic(), acks, wake
	fs.byID = make(map[flowID]*tcpFlow)
}

// now is the time since the start of the queue. It is never 0.
func (fs *flows) now() time.Duration { return fs.clock.NowMonotonic().Sub(fs.start) + 1 }

func (fs *flows) add(f *tcpFlow) { fs.byID[f.id] = f }

// remove ends a flow. The flow may stay in active, where read skips it.
func (fs *flows) remove(f *tcpFlow) {
	f.abandon()
	if f.schedule.heapIndex >= 0 {
		heap.Remove(&fs.waiting, f.schedule.heapIndex)
	}
	if fs.byID[f.id] == f {
		delete(fs.byID, f.id)
		if f.snd != nil {
			fs.ended.Add(f.snd.Stats())
		}
	}
}

// schedule updates the place of a flow after its state has changed.
func (fs *flows) schedule(f *tcpFlow, now time.Duration) {
	switch {
	case f.ended:
		fs.remove(f)
	case f.snd == nil || f.schedule.active:
	case f.snd.Ready(now):
		if f.schedule.heapIndex >= 0 {
			heap.Remove(&fs.waiting, f.schedule.heapIndex)
		}
		f.schedule.active = true
		fs.active.push(f)
	default:
		fs.scheduleWake(f, now)
	}
}

// scheduleWake makes serve handle the flow when its Sender wants to be woken. A deadline that moves
// later, as it does with every acknowledgement, is not updated in the heap: serve sees that when
// the old one expires.
func (fs *flows) scheduleWake(f *tcpFlow, now time.Duration) {
	at := f.snd.Wake()
	switch {
	case at == 0:
		return
	case f.schedule.heapIndex < 0:
		f.schedule.due = at
		heap.Push(&fs.waiting, f)
	case at < f.schedule.due:
		f.schedule.due = at
		heap.Fix(&fs.waiting, f.schedule.heapIndex)
	default:
		return
	}
	fs.setTimer(now)
}

// tick is the granularity of the timer. Flows that are due within one tick are served together, so
// that their packets leave in one batch.
const tick = 500 * time.Microsecond

// setTimer sets the timer to the first tick at which a flow is due.
func (fs *flows) setTimer(now time.Duration) {
	if len(fs.waiting) == 0 {
		return
	}
	due := (fs.waiting[0].schedule.due + tick - 1) / tick * tick
	if fs.timerAt != 0 && fs.timerAt <= due {
		return
	}
	fs.timerAt = due
	d := max(due-now, 0)
	if fs.timer == nil {
		fs.timer = fs.clock.AfterFunc(d, fs.wake)
	} else {
		fs.timer.Reset(d)
	}
}

// serve handles the flows that are due.
func (fs *flows) serve(now time.Duration) {
	if fs.timerAt != 0 && fs.timerAt <= now {
		fs.timerAt = 0
	}
	for len(fs.waiting) > 0 && fs.waiting[0].schedule.due <= now {
		f := heap.Pop(&fs.waiting).(*tcpFlow)
		if f.snd.Expire(now) && f.conn.unsent() > 0 {
			fs.probes.push(f)
		}
		f.ended = f.ended || f.snd.TimedOut() && f.connEnded()
		fs.schedule(f, now)
	}
	fs.setTimer(now)
}

// read fills bufs with packets of the active flows, each from offset on, and returns their number.
func (fs *flows) read(now time.Duration, bufs [][]byte, sizes []int, offset int) (n int) {
	for ; n < len(bufs) && fs.probes.n > 0; n++ {
		sizes[n] = fs.probes.pop().buildProbe(bufs[n][offset:])
	}
	for n < len(bufs) && fs.active.n > 0 {
		f := fs.active.pop()
		f.schedule.active = false
		if f.ended {
			continue
		}
		limit := len(bufs)
		if fs.active.n > 0 {
			limit = min(limit, n+quantum)
		}
		before, fresh := n, false
		for n < limit {
			out, ok := f.snd.Next(now)
			if !ok {
				break
			}
			fresh = fresh || !out.Repeated
			if sizes[n] = f.buildPacket(bufs[n][offset:], out); sizes[n] > 0 {
				n++
			}
		}
		if n > before {
			f.lastUse.sent = now
			f.reportProgress()
		}
		if fresh { // not for retransmissions: a peer that has the data ignores the acknowledgement in them
			fs.acks.piggybacked(&f.id, f.latest.ack)
		}
		fs.schedule(f, now)
	}
	return n
}

// ready is about how many bytes read would return.
func (fs *flows) ready() (bytes int) {
	switch {
	case fs.active.n == 1:
		bytes = max(fs.active.first().sendable(), 1)
	case fs.active.n > 1:
		bytes = corkLimit
	}
	return bytes + fs.probes.n*header.TCPMinimumSize
}

// received takes an inbound TCP packet of f. It reports whether gVisor must see it.
func (fs *flows) received(now time.Duration, f *tcpFlow, tcp header.TCP, payload int) (show bool) {
	if payload > 0 {
		f.lastUse.received = now
		if _, echo, ok := timestamps(tcp.Options()); ok {
			f.clock.received(now, echo)
		}
	}
	if f.measureOnly {
		return true
	}
	sacks := stripSACK(tcp, fs.sacks[:0])
	show = f.receiveAck(now, tcp, payload, sacks)
	fs.schedule(f, now)
	return show
}

// restoreWindow makes the timer fire at once, so that f.restoreWindow is called without the queue's
// mutex.
func (fs *flows) restoreWindow(f *tcpFlow, now time.Duration) {
	fs.windowLost = append(fs.windowLost, f)
	fs.timerAt = max(now, 1)
	if fs.timer == nil {
		fs.timer = fs.clock.AfterFunc(0, fs.wake)
	} else {
		fs.timer.Reset(0)
	}
}

// takeWindowLost returns the flows whose window the caller must restore, and clears the list.
func (fs *flows) takeWindowLost() []*tcpFlow {
	all := fs.windowLost
	fs.windowLost = nil
	for _, f := range all {
		f.windowLost = false
	}
	return all
}

// close ends all flows.
func (fs *flows) close() {
	for _, f := range fs.byID {
		fs.remove(f)
	}
	fs.active, fs.probes = ring[*tcpFlow]{}, ring[*tcpFlow]{}
	if fs.timer != nil {
		fs.timer.Stop()
	}
}

// deadlineHeap is a heap of flows by schedule.due.
type deadlineHeap []*tcpFlow

func (t deadlineHeap) Len() int           { return len(t) }
func (t deadlineHeap) Less(i, j int) bool { return t[i].schedule.due < t[j].schedule.due }
func (t deadlineHeap) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].schedule.heapIndex, t[j].schedule.heapIndex = i, j
}

// Push implements heap.Interface.
func (t *deadlineHeap) Push(x any) {
	f := x.(*tcpFlow)
	f.schedule.heapIndex = len(*t)
	*t = append(*t, f)
}

// Pop implements heap.Interface.
func (t *deadlineHeap) Pop() any {
	old := *t
	f := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	f.schedule.heapIndex = -1
	return f
}

// inboundID returns the flow of an inbound packet, whose TCP header begins at l4. Source and
// destination are exchanged, because a flowID is that of outbound packets.
func inboundID(packet []byte, l4 int) (id flowID) {
	src, dst := packet[12:16], packet[16:20]
	if packet[0]>>4 == 6 {
		src, dst = packet[8:24], packet[24:40]
	}
	n := copy(id.addrs[:], dst)
	copy(id.addrs[n:], src)
	ports := binary.BigEndian.Uint32(packet[l4:])
	id.ports = ports<<16 | ports>>16
	return id
}
