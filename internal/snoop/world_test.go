package snoop

import (
	"container/heap"
	"slices"
	"sort"
	"time"

	"ginnel/internal/netem"
)

// world simulates senders and receivers that share a path, in simulated time.
type world struct {
	now       time.Duration
	out, back *netem.Direction
	events    events
	n         uint64
	flows     []*simFlow
}

// simFlow is one connection of a world.
type simFlow struct {
	w        *world
	s        *Sender
	r        receiver
	armed    time.Duration // when the timer fires; 0: it does not
	want     int           // bytes that the application has still to write
	received []mark        // bytes received in order, by time
	bursts   int           // number of times at which packets left
}

// mark says how many bytes had arrived in order at a time.
type mark struct {
	at    time.Duration
	bytes int
}

const (
	simMSS    = 1228
	simHeader = 20 + 12 + 20 + 32 + 28 // TCP with timestamps, IPv4, WireGuard, UDP and IPv4
)

// firstSeq is the first sequence number of every connection. It is so high that the numbers wrap
// around.
const firstSeq = ^uint32(0) - 10_000

// unsentInSim is how many unsent bytes the application keeps queued.
const unsentInSim = 256 << 10

func newWorld(out, back netem.Config, seed uint64) *world {
	return &world{now: 1, out: netem.NewDirection(out, seed), back: netem.NewDirection(back, seed+1)}
}

// connect adds a connection that sends n bytes.
func (w *world) connect(n int) *simFlow {
	f := &simFlow{w: w, s: New(firstSeq, simMSS), want: n}
	f.r.next = firstSeq
	w.flows = append(w.flows, f)
	return f
}

type event struct {
	at time.Duration
	n  uint64
	do func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].n < e[j].n
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func (w *world) after(at time.Duration, do func()) {
	w.n++
	heap.Push(&w.events, event{at, w.n, do})
}

// timerGrain is how late timers fire.
const timerGrain = time.Millisecond

// run runs the simulation until a time.
func (w *world) run(until time.Duration) {
	for {
		for _, f := range w.flows {
			f.fill()
			f.send()
			f.arm()
		}
		if len(w.events) == 0 || w.events[0].at > until {
			w.now = until
			return
		}
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
}

// arm sets the timer to the time that Wake returns.
func (f *simFlow) arm() {
	wake := f.s.Wake()
	if wake == 0 || f.armed != 0 && f.armed <= wake {
		return
	}
	f.armed = wake
	f.w.after(max(wake, f.w.now)+timerGrain/2, func() {
		f.armed = 0
		f.s.Expire(f.w.now)
	})
}

func (f *simFlow) fill() {
	if n := min(unsentInSim-f.s.Unsent(), f.want); n > 0 && (n >= unsentInSim/2 || n == f.want) {
		f.s.Queue(f.w.now, Segment{Seq: f.s.end, Len: n})
		f.want -= n
	}
}

func (f *simFlow) send() {
	for first := true; ; first = false {
		o, ok := f.s.Next(f.w.now)
		if !ok {
			return
		}
		if first {
			f.bursts++
		}
		at, v := f.w.out.Send(f.w.now, o.Len+simHeader)
		if v == netem.Delivered {
			f.w.after(at, func() { f.arrive(o) })
		}
	}
}

// arrive passes a packet to the receiver, which acknowledges every second packet in order, and at
// once packets that are out of order.
func (f *simFlow) arrive(o Outgoing) {
	atOnce := f.r.take(Block{o.Seq, o.Seq + uint32(o.Len)})
	f.received = append(f.received, mark{f.w.now, int(f.r.next - firstSeq)})
	if f.r.unacked++; atOnce || f.r.unacked == 2 {
		f.ack()
		return
	}
	serial := f.r.serial
	f.w.after(f.w.now+10*time.Millisecond, func() {
		if f.r.serial == serial {
			f.ack()
		}
	})
}

func (f *simFlow) ack() {
	f.r.serial++
	f.r.unacked = 0
	ack, sacks := f.r.next, f.r.report()
	if at, v := f.w.back.Send(f.w.now, simHeader); v == netem.Delivered {
		f.w.after(at, func() { f.s.Ack(f.w.now, ack, sacks) })
	}
}

// between returns the rate at which bytes arrived in order between two times, in Mbit/s.
func (f *simFlow) between(from, to time.Duration) float64 {
	return float64(f.arrivedBy(to)-f.arrivedBy(from)) * 8 / 1e6 / (to - from).Seconds()
}

// arrivedBy returns how many bytes had arrived in order at a time.
func (f *simFlow) arrivedBy(at time.Duration) (bytes int) {
	n := sort.Search(len(f.received), func(i int) bool { return f.received[i].at > at })
	if n == 0 {
		return 0
	}
	return f.received[n-1].bytes
}

// receiver is the receiving half of a TCP with SACK, which reports three blocks.
type receiver struct {
	next    uint32
	above   blocks
	recent  []Block // received out of order, newest first
	unacked int
	serial  int
	twice   *Block // a duplicate packet that was not yet reported by D-SACK
	noSACK  bool
}

// take receives a packet, and reports whether it has to be acknowledged at once.
func (r *receiver) take(b Block) bool {
	if !after(b.End, r.next) || r.above.holds(b) {
		r.twice = &b
		return true
	}
	gap := len(r.above) > 0
	r.above.add(b, func(Block) {})
	for len(r.above) > 0 && atLeast(r.next, r.above[0].Start) {
		r.next = r.above[0].End
		r.above.forget(r.next)
	}
	if after(b.Start, r.next) {
		r.recent = append([]Block{b}, r.recent...)
		r.recent = r.recent[:min(len(r.recent), 8)]
		return true
	}
	return gap
}

func (r *receiver) report() (list []Block) {
	if r.noSACK {
		return nil
	}
	if r.twice != nil {
		list = append(list, *r.twice)
		r.twice = nil
	}
	for _, b := range r.recent {
		if len(list) == 3 {
			break
		}
		for _, a := range r.above {
			if atLeast(b.Start, a.Start) && atLeast(a.End, b.End) && !slices.Contains(list, a) {
				list = append(list, a)
			}
		}
	}
	return list
}
