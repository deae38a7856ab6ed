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

	byID   map[flowID]*flow
	ended  snoop.Stats // of flows that have been removed
	active ring[*flow] // may send now, in the order of their turns
	timed  timed       // wait for their time
	timer  tcpip.Timer
	set    time.Duration // when the timer fires; 0: it does not

	sacks [maxBlocks]snoop.Block // room for those of one packet
	asks  ring[*flow]            // peers are to be asked for their windows

	shrunk []*flow // gVisor has taken their windows away
	acks   *acks   // acknowledgements that wait for something to travel with
}

// sched is the place of a flow in the order of service.
type sched struct {
	active bool
	index  int           // in timed; -1: not there
	due    time.Duration // when it is to be served, while it is in timed
}

func (fs *flows) init(clock tcpip.Clock, acks *acks, wake func()) {
	fs.clock, fs.start, fs.acks, fs.wake = clock, clock.NowMonotonic(), acks, wake
	fs.byID = make(map[flowID]*flow)
}

// now is the time since the start of the queue, never 0.
func (fs *flows) now() time.Duration { return fs.clock.NowMonotonic().Sub(fs.start) + 1 }

func (fs *flows) add(f *flow) { fs.byID[f.id] = f }

// remove ends a flow. Its place among the active ones is found empty later.
func (fs *flows) remove(f *flow) {
	f.drop()
	if f.sched.index >= 0 {
		heap.Remove(&fs.timed, f.sched.index)
	}
	if fs.byID[f.id] == f {
		delete(fs.byID, f.id)
		if f.snd != nil {
			fs.ended.Add(f.snd.Stats())
		}
	}
}

// place puts a flow where it belongs after something has happened to it.
func (fs *flows) place(f *flow, now time.Duration) {
	switch {
	case f.gone:
		fs.remove(f)
	case f.snd == nil || f.sched.active:
	case f.snd.Ready(now):
		if f.sched.index >= 0 {
			heap.Remove(&fs.timed, f.sched.index)
		}
		f.sched.active = true
		fs.active.push(f)
	default:
		fs.wait(f, now)
	}
}

// wait has the flow served again when it has something to do. A deadline that moves later, as it
// does with every acknowledgement, is not updated in the heap: serve notices when the old one
// passes.
func (fs *flows) wait(f *flow, now time.Duration) {
	at := f.snd.Wake()
	switch {
	case at == 0:
		return
	case f.sched.index < 0:
		f.sched.due = at
		heap.Push(&fs.timed, f)
	case at < f.sched.due:
		f.sched.due = at
		heap.Fix(&fs.timed, f.sched.index)
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
	if len(fs.timed) == 0 {
		return
	}
	due := (fs.timed[0].sched.due + tick - 1) / tick * tick
	if fs.set != 0 && fs.set <= due {
		return
	}
	fs.set = due
	d := max(due-now, 0)
	if fs.timer == nil {
		fs.timer = fs.clock.AfterFunc(d, fs.wake)
	} else {
		fs.timer.Reset(d)
	}
}

// serve does what is due for the flows whose time has come.
func (fs *flows) serve(now time.Duration) {
	if fs.set != 0 && fs.set <= now {
		fs.set = 0
	}
	for len(fs.timed) > 0 && fs.timed[0].sched.due <= now {
		f := heap.Pop(&fs.timed).(*flow)
		if f.snd.Expire(now) && f.conn.unsent() > 0 {
			fs.asks.push(f)
		}
		f.gone = f.gone || f.snd.TimedOut() && f.dead()
		fs.place(f, now)
	}
	fs.setTimer(now)
}

// read fills bufs with packets of the active flows, each from offset on, and returns how many there
// are.
func (fs *flows) read(now time.Duration, bufs [][]byte, sizes []int, offset int) (n int) {
	for ; n < len(bufs) && fs.asks.n > 0; n++ {
		sizes[n] = fs.asks.pop().probe(bufs[n][offset:])
	}
	for n < len(bufs) && fs.active.n > 0 {
		f := fs.active.pop()
		f.sched.active = false
		if f.gone {
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
			if sizes[n] = f.build(bufs[n][offset:], out); sizes[n] > 0 {
				n++
			}
		}
		if n > before {
			f.spoke = now
			f.progress()
		}
		if fresh { // a peer may have what is repeated, and then takes no acknowledgement from it
			fs.acks.along(&f.id, f.last.ack)
		}
		fs.place(f, now)
	}
	return n
}

// ready is about how many bytes read would find.
func (fs *flows) ready() (bytes int) {
	switch {
	case fs.active.n == 1:
		bytes = max(fs.active.first().waiting(), 1)
	case fs.active.n > 1:
		bytes = maxCorked
	}
	return bytes + fs.asks.n*header.TCPMinimumSize
}

// received takes a TCP packet of a peer's. It reports whether gVisor is to see it.
func (fs *flows) received(now time.Duration, f *flow, tcp header.TCP, payload int) (show bool) {
	if payload > 0 {
		f.heard = now
		if _, echo, ok := timestamps(tcp.Options()); ok {
			f.clock.received(now, echo)
		}
	}
	if f.passive {
		return true
	}
	sacks := stripSACK(tcp, fs.sacks[:0])
	show = f.acked(now, tcp, payload, sacks)
	fs.place(f, now)
	return show
}

// regrow has the timer call f.regrow, which must run without the queue's mutex.
func (fs *flows) regrow(f *flow, now time.Duration) {
	fs.shrunk = append(fs.shrunk, f)
	fs.set = max(now, 1)
	if fs.timer == nil {
		fs.timer = fs.clock.AfterFunc(0, fs.wake)
	} else {
		fs.timer.Reset(0)
	}
}

func (fs *flows) takeShrunk() []*flow {
	all := fs.shrunk
	fs.shrunk = nil
	return all
}

// close ends all.
func (fs *flows) close() {
	for _, f := range fs.byID {
		fs.remove(f)
	}
	fs.active, fs.asks = ring[*flow]{}, ring[*flow]{}
	if fs.timer != nil {
		fs.timer.Stop()
	}
}

// timed is a heap, by the time at which flows are due.
type timed []*flow

func (t timed) Len() int           { return len(t) }
func (t timed) Less(i, j int) bool { return t[i].sched.due < t[j].sched.due }
func (t timed) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].sched.index, t[j].sched.index = i, j
}

// Push implements heap.Interface.
func (t *timed) Push(x any) {
	f := x.(*flow)
	f.sched.index = len(*t)
	*t = append(*t, f)
}

// Pop implements heap.Interface.
func (t *timed) Pop() any {
	old := *t
	f := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	f.sched.index = -1
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
