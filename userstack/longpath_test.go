package userstack

import (
	"bytes"
	"container/heap"
	"net"
	"net/netip"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"ginnel/internal/netem"
)

// longPath is two stacks that are joined by an emulated path under a manual clock. The clock only
// advances when every goroutine waits, so nothing depends on the speed of the machine.
type longPath struct {
	t        *testing.T
	clock    *faketime.ManualClock
	now      time.Duration
	ends     [2]*Stack
	dirs     [2]*netem.Direction // from ends[0], from ends[1]
	inFlight [2]flightHeap       // to ends[0], to ends[1]
	sent     uint64

	drop   func(from int, packet []byte) bool // drops packets in addition to the path; may be nil
	mangle func(packet []byte)                // changes packets on the path; may be nil

	bufs  [][]byte
	sizes []int
	wg    sync.WaitGroup
}

// underlay is what WireGuard, UDP and IPv4 add to a packet on the path, in bytes.
const underlay = 32 + 8 + 20

// step is how far the clock advances at once. Timers fire up to a step late, as on a real machine.
const step = 500 * time.Microsecond

func newLongPath(t *testing.T, forward, back netem.Config, cfg Config) *longPath {
	t.Helper()
	procs := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(procs) })
	p := &longPath{t: t, clock: faketime.NewManualClock()}
	cfg.clock = p.clock
	if cfg.MTU == 0 {
		cfg.MTU = 1280
	}
	for i, addr := range []netip.Addr{addrA4, addrB4} {
		p.ends[i] = newStack(t, cfg, addr)
		p.ends[i].SetFilter(func(Flow) bool { return true })
	}
	p.dirs = [2]*netem.Direction{netem.NewDirection(forward, 1), netem.NewDirection(back, 2)}
	p.bufs, p.sizes = buffers(maxBatch)
	t.Cleanup(func() {
		p.ends[0].Close()
		p.ends[1].Close()
		p.wg.Wait()
	})
	return p
}

// flight is a packet on the path.
type flight struct {
	at     time.Duration
	number uint64
	packet []byte
}

// batchOnPath is how many packets one read of a UDP socket returns if the network does not merge
// them.
const batchOnPath = 8

// flightHeap is a heap of packets by arrival time.
type flightHeap []flight

func (f flightHeap) Len() int      { return len(f) }
func (f flightHeap) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f flightHeap) Less(i, j int) bool {
	return f[i].at < f[j].at || f[i].at == f[j].at && f[i].number < f[j].number
}
func (f *flightHeap) Push(x any) { *f = append(*f, x.(flight)) }
func (f *flightHeap) Pop() any {
	old := *f
	x := old[len(old)-1]
	*f = old[:len(old)-1]
	return x
}

// settle runs the goroutines until all of them wait.
func (p *longPath) settle() {
	for active := true; active; {
		awaitIdle()
		active = false
		for i, s := range p.ends {
			for {
				n := s.Device().Queues()[0].Read(p.bufs, p.sizes, 0)
				if n == 0 {
					break
				}
				for k := range n {
					p.send(i, p.bufs[k][:p.sizes[k]])
				}
				active = true
			}
		}
	}
}

func (p *longPath) send(from int, packet []byte) {
	if p.drop != nil && p.drop(from, packet) {
		return
	}
	if p.mangle != nil {
		p.mangle(packet)
	}
	at, v := p.dirs[from].Send(p.now, len(packet)+underlay)
	if v == netem.Delivered {
		p.sent++
		heap.Push(&p.inFlight[1-from], flight{at, p.sent, bytes.Clone(packet)})
	}
}

// run advances the clock by d.
func (p *longPath) run(d time.Duration) {
	for end := p.now + d; p.now < end; {
		p.settle()
		next := min(p.now+step, end)
		p.clock.Advance(next - p.now)
		p.now = next
		for to := range p.ends {
			p.deliver(to)
		}
	}
	p.settle()
}

// stepLong advances the clock by d in coarse steps, for a time in which nothing arrives.
func (p *longPath) stepLong(d time.Duration) {
	for end := p.now + d; p.now < end; p.now += 10 * time.Millisecond {
		p.settle()
		p.clock.Advance(10 * time.Millisecond)
		for to := range p.ends {
			p.deliver(to)
		}
	}
	p.settle()
}

// deliver passes the packets that have arrived to an end, in batches as WireGuard does.
func (p *longPath) deliver(to int) {
	var batch [][]byte
	for f := &p.inFlight[to]; len(*f) > 0 && (*f)[0].at <= p.now; {
		if batch = append(batch, heap.Pop(f).(flight).packet); len(batch) == batchOnPath {
			p.ends[to].Device().Write(batch, 0)
			batch = batch[:0]
		}
	}
	if len(batch) > 0 {
		p.ends[to].Device().Write(batch, 0)
	}
}

// awaitIdle returns when no other goroutine can run. It requires GOMAXPROCS(1), which newLongPath
// sets.
func awaitIdle() {
	runnable := []metrics.Sample{{Name: "/sched/goroutines/runnable:goroutines"}}
	for {
		runtime.Gosched()
		if metrics.Read(runnable); runnable[0].Value.Uint64() == 0 {
			return
		}
	}
}

// transfer is a bulk connection between the two ends.
type transfer struct {
	near, far net.Conn
	arrived   atomic.Int64
}

// connect connects ends[from] to the other end, which takes a round trip of simulated time.
func (p *longPath) connect(from int, port uint16) (near, far net.Conn) {
	p.t.Helper()
	l, err := p.ends[1-from].Listen(netip.AddrPortFrom(netip.Addr{}, port))
	if err != nil {
		p.t.Fatal(err)
	}
	defer l.Close()
	to := netip.AddrPortFrom([]netip.Addr{addrA4, addrB4}[1-from], port)
	var nearErr, farErr error
	var done atomic.Int32
	p.wg.Go(func() { near, nearErr = p.ends[from].DialContext(p.t.Context(), "tcp", to.String()); done.Add(1) })
	p.wg.Go(func() { far, farErr = l.Accept(); done.Add(1) })
	for limit := p.now + time.Minute; done.Load() < 2; {
		if p.run(10 * time.Millisecond); p.now > limit {
			p.t.Fatal("no connection within a minute")
		}
	}
	if nearErr != nil || farErr != nil {
		p.t.Fatal(nearErr, farErr)
	}
	return near, far
}

// bulk starts a transfer from ends[from] that never ends.
func (p *longPath) bulk(from int, port uint16) *transfer {
	p.t.Helper()
	x := new(transfer)
	x.near, x.far = p.connect(from, port)
	p.wg.Go(func() {
		piece := make([]byte, 64<<10)
		for {
			if _, err := x.near.Write(piece); err != nil {
				return
			}
		}
	})
	p.wg.Go(func() {
		piece := make([]byte, 64<<10)
		for {
			n, err := x.far.Read(piece)
			x.arrived.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	return x
}
