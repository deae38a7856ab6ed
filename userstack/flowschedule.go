package userstack

import (
	"container/heap"
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"ginnel/internal/snoop"
)

// quantum is how many packets a flow sends before it is the turn of the next.
const quantum = 64

// flows are the connections whose sending a queue manages, and the order in which they are served:
// those that may send now take turns, and the others wait for their time. The queue's mutex guards
// them.
type flows struct {
	clock tcpip.Clock
	start tcpip.MonotonicTime
	wake  func() // called when a flow may send, without the mutex

	byID    map[flowID]*tcpFlow
	ended   snoop.Stats    // of flows that have been removed
	active  ring[*tcpFlow] // may send now, in the order of their turns
	waiting deadlineHeap   // wait for their time
	timer   tcpip.Timer
	timerAt time.Duration // when the timer fires; 0: it does not

	sacks  [maxSACKBlocks]snoop.Block // room for those of one packet
	probes ring[*tcpFlow]             // peers are to be asked for their windows

	windowLost []*tcpFlow   // gVisor has taken their windows away
	acks       *delayedAcks // acknowledgements that wait for something to travel with
}

// schedule is the place of a flow in the order of service.
type schedule struct {
	active    bool
	heapIndex int           // in timed; -1: not there
	due       time.Duration // when it is to be served, while it is in timed
}

func (fs *flows) init(clock tcpip.Clock, acks *delayedAcks, wake func()) {
	fs.clock, fs.start, fs.acks, fs.wake = clock, clock.NowMonotonic(), acks, wake
	fs.byID = make(map[flowID]*tcpFlow)
}

// now is the time since the start of the queue, never 0.
func (fs *flows) now() time.Duration { return fs.clock.NowMonotonic().Sub(fs.start) + 1 }

func (fs *flows) add(f *tcpFlow) { fs.byID[f.id] = f }

// remove ends a flow. Its place among the active ones is found empty later.
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

// schedule puts a flow where it belongs after something has happened to it.
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

// scheduleWake has the flow served again when it has something to do. A deadline that moves later, as it
// does with every acknowledgement, is not updated in the heap: serve notices when the old one
// passes.
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

// tick is how far apart the timer fires at the least, so that flows that are due soon after each
// other are served together and their packets leave in one batch.
const tick = 500 * time.Microsecond

// setTimer has the timer fire at the first tick at which a waiting flow is due.
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

// serve does what is due for the flows whose time has come.
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

// read fills bufs with packets of the active flows, each from offset on, and returns how many there
// are.
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
			f.lastSent = now
			f.progress()
		}
		if fresh { // a peer may have what is repeated, and then takes no acknowledgement from it
			fs.acks.piggybacked(&f.id, f.latest.ack)
		}
		fs.schedule(f, now)
	}
	return n
}

// ready is about how many bytes read would find.
func (fs *flows) ready() (bytes int) {
	switch {
	case fs.active.n == 1:
		bytes = max(fs.active.first().sendable(), 1)
	case fs.active.n > 1:
		bytes = corkLimit
	}
	return bytes + fs.probes.n*header.TCPMinimumSize
}

// received takes a TCP packet of a peer's. It reports whether gVisor is to see it.
func (fs *flows) received(now time.Duration, f *tcpFlow, tcp header.TCP, payload int) (show bool) {
	if payload > 0 {
		f.lastHeard = now
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

// restoreWindow has the timer call f.regrow, which must run without the queue's mutex.
func (fs *flows) restoreWindow(f *tcpFlow, now time.Duration) {
	fs.windowLost = append(fs.windowLost, f)
	fs.timerAt = max(now, 1)
	if fs.timer == nil {
		fs.timer = fs.clock.AfterFunc(0, fs.wake)
	} else {
		fs.timer.Reset(0)
	}
}

func (fs *flows) takeWindowLost() []*tcpFlow {
	all := fs.windowLost
	fs.windowLost = nil
	return all
}

// close ends all.
func (fs *flows) close() {
	for _, f := range fs.byID {
		fs.remove(f)
	}
	fs.active, fs.probes = ring[*tcpFlow]{}, ring[*tcpFlow]{}
	if fs.timer != nil {
		fs.timer.Stop()
	}
}

// deadlineHeap is a heap, by the time at which flows are due.
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

// inboundID is the flow of a packet that comes in, whose TCP header begins at l4: addresses and
// ports the other way around.
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
