package userstack

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"ginnel/internal/netem"
)

const ms = time.Millisecond

// bottleneck is a path with a round-trip time and a rate. Its queue holds a fraction of the
// bandwidth-delay product.
func bottleneck(rtt time.Duration, mbit int64, part float64) netem.Config {
	bdp := float64(mbit*1e6/8) * rtt.Seconds()
	return netem.Config{Delay: rtt / 2, Rate: mbit * 1e6, Queue: int(max(part*bdp, 20e3))}
}

// payloadPart is the fraction of a path's rate that is payload: packets are 1280 bytes with 52
// bytes of headers.
const payloadPart = float64(1280-52) / (1280 + underlay)

// perTrip runs n round trips and returns how many bytes arrived per round trip, as a fraction of
// the path's capacity.
func (p *longPath) perTrip(x *transfer, rtt time.Duration, mbit int64, n int) float64 {
	before := x.arrived.Load()
	p.run(time.Duration(n) * rtt)
	best := float64(mbit*1e6/8) * rtt.Seconds() * payloadPart
	return float64(x.arrived.Load()-before) / float64(n) / best
}

// Windows follow the bandwidth-delay product: within 20 round trips a connection fills a path that
// holds 14 times the first window, in each direction. Fails when windows do not grow.
func TestWindowsFollowThePath(t *testing.T) {
	for from := range 2 {
		t.Run([]string{"up", "down"}[from], func(t *testing.T) {
			const rtt, mbit = 200 * ms, 300
			way := bottleneck(rtt, mbit, 1)
			p := newLongPath(t, way, way, Config{})
			x := p.bulk(from, 80)
			p.run(20 * rtt)
			if got := p.perTrip(x, rtt, mbit, 5); got < 0.95 {
				t.Errorf("%.2f of the capacity arrives per round trip", got)
			}
			if s := p.ends[from].gv.Stats().TCP; s.FastRetransmit.Value()+s.Timeouts.Value()+s.Retransmits.Value() > 0 {
				t.Error("gVisor has found losses, which were to be hidden from it")
			}
		})
	}
}

// Under CUBIC a connection also fills a path without loss.
func TestWindowsUnderCUBIC(t *testing.T) {
	const rtt, mbit = 60 * ms, 100
	way := bottleneck(rtt, mbit, 1)
	p := newLongPath(t, way, way, Config{Congestion: CUBIC})
	x := p.bulk(0, 80)
	p.run(60 * rtt)
	if got := p.perTrip(x, rtt, mbit, 20); got < 0.75 {
		t.Errorf("%.2f of the capacity arrives per round trip", got)
	}
	if f := x.near.(*Conn).flow; f.snd != nil {
		t.Error("the device sends although gVisor is to")
	}
}

// Losses and retransmissions are counted, also after their connection has ended.
func TestRecoveryIsCounted(t *testing.T) {
	way := bottleneck(20*ms, 100, 1)
	way.Loss = 0.01
	p := newLongPath(t, way, netem.Config{Delay: 10 * ms}, Config{})
	x := p.bulk(0, 80)
	p.run(time.Second)
	x.near.(*Conn).SetLinger(0)
	x.near.Close()
	p.run(time.Second)
	if n := len(p.ends[0].dev.queues[0].flows.byID); n > 0 {
		t.Errorf("%d flows remain", n)
	}
	r, w := p.ends[0].Recovery(), p.dirs[0].Stats()
	lost := w.Lost + w.QueueFull
	if r.Packets < 1000 || r.Lost < lost*9/10 || r.Lost > lost ||
		r.Retransmitted < r.Lost*9/10 || r.Retransmitted > r.Lost+5 {
		t.Errorf("counted %+v, but the path lost %d packets", r, lost)
	}
	if got := p.ends[1].Recovery(); got.Packets != 0 {
		t.Errorf("counted %+v for a side that sent nothing", got)
	}
}

// A path that loses or reorders packets at random carries about as much as a clean one. Fails when
// reordering is taken for loss, or loss for congestion.
func TestRoughPaths(t *testing.T) {
	for _, c := range []struct {
		name string
		rtt  time.Duration
		mbit int64
		way  func(*netem.Config)
		want float64
	}{
		{"0.1 % lost", 66 * ms, 100, func(w *netem.Config) { w.Loss = 0.001 }, 0.93},
		{"1 % lost", 66 * ms, 100, func(w *netem.Config) { w.Loss = 0.01 }, 0.9},
		{"bursts lost", 66 * ms, 100, func(w *netem.Config) { w.Loss, w.Burst = 0.005, 10 }, 0.85},
		{"5 % late", 20 * ms, 100, func(w *netem.Config) { w.Reorder, w.ReorderDelay = 0.05, 4*ms }, 0.93},
		{"jitter", 20 * ms, 100, func(w *netem.Config) { w.Jitter = 5 * ms }, 0.85},
		{"short queue", 66 * ms, 100, func(w *netem.Config) { w.Queue /= 4 }, 0.9},
	} {
		t.Run(c.name, func(t *testing.T) {
			way := bottleneck(c.rtt, c.mbit, 1)
			c.way(&way)
			p := newLongPath(t, way, way, Config{})
			x := p.bulk(0, 80)
			p.run(20 * c.rtt)
			if got := p.perTrip(x, c.rtt, c.mbit, 30); got < c.want {
				t.Errorf("%.2f of the capacity is used, want %.2f", got, c.want)
			}
		})
	}
}

// A peer that does not read closes its window. If the packet that opens it again is lost, the flow
// probes the window long before gVisor would. No byte is lost.
func TestWindowUpdateIsLost(t *testing.T) {
	p := newLongPath(t, netem.Config{Delay: 20 * ms}, netem.Config{Delay: 20 * ms}, Config{})
	near, far := p.connect(0, 80)
	data := randomBytes(4<<20, 7)
	p.wg.Go(func() { near.Write(data); near.(*Conn).CloseWrite() })
	p.run(2 * time.Second) // now the window is closed
	p.drop = func(from int, packet []byte) bool { return from == 1 }
	var got []byte
	var done atomic.Bool
	p.wg.Go(func() { got, _ = io.ReadAll(far); done.Store(true) })
	p.run(100 * ms) // the window update is lost
	p.drop = nil
	for limit := p.now + 10*time.Second; !done.Load(); p.run(100 * ms) {
		if p.now > limit {
			t.Fatalf("%d of %d bytes after ten seconds", len(got), len(data))
		}
	}
	if string(got) != string(data) {
		t.Errorf("got %d bytes, want the %d bytes that were sent", len(got), len(data))
	}
}

// In an outage of minutes gVisor's own RTO expires and reduces its congestion window to one
// segment. The flow restores it; otherwise it would grow by one packet per round trip. Both ends
// have data to send, because an end that only reads gives up after 150 s, by keep-alive.
func TestLongOutage(t *testing.T) {
	const rtt, mbit = 100 * ms, 50
	way := bottleneck(rtt, mbit, 1)
	p := newLongPath(t, way, way, Config{})
	x := p.bulk(0, 80)
	p.wg.Go(func() { io.Copy(io.Discard, x.near) })
	p.wg.Go(func() { io.Copy(x.far, neverEnding{}) })
	p.run(3 * time.Second)
	p.drop = func(int, []byte) bool { return true }
	p.stepLong(managedRTO + 20*time.Second)
	if n := p.ends[0].gv.Stats().TCP.Timeouts.Value(); n != 1 {
		t.Fatalf("gVisor's RTO has expired %d times", n)
	}
	p.drop = nil
	p.run(15 * time.Second)
	if got := p.perTrip(x, rtt, mbit, 40); got < 0.7 {
		t.Errorf("after the outage %.2f of the capacity is used", got)
	}
}

// A connection that is aborted with much unsent data is reset for the peer at once, because the RST
// has the sequence number that the peer expects, and not that after the unsent data.
func TestResetOfUnsentData(t *testing.T) {
	way := bottleneck(40*ms, 5, 1)
	p := newLongPath(t, way, way, Config{})
	near, far := p.connect(0, 80)
	p.wg.Go(func() { near.Write(make([]byte, 10<<20)) })
	errc := make(chan error, 1)
	p.wg.Go(func() {
		_, err := io.Copy(io.Discard, far)
		errc <- err
		far.Close()
	})
	p.run(time.Second)
	near.(*Conn).SetLinger(0)
	near.Close()
	for limit := p.now + time.Second; len(errc) == 0; p.run(10 * ms) {
		if p.now > limit {
			t.Fatal("the peer has not got the reset")
		}
	}
	if err := <-errc; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer reads %v, want a reset", err)
	}
	p.noFlows()
}

// No flow remains after a connection has ended, whichever side closes first.
func TestFlowsEnd(t *testing.T) {
	p := newLongPath(t, netem.Config{Delay: 5 * ms}, netem.Config{Delay: 5 * ms}, Config{})
	for i := range 3 {
		near, far := p.connect(0, uint16(80+i))
		near.Write([]byte("question"))
		p.run(20 * ms)
		far.Write([]byte("answer"))
		p.run(20 * ms)
		for _, c := range [][]net.Conn{{near, far}, {far, near}, {near}}[i] {
			c.Close()
			p.run(30 * ms)
		}
		if i == 2 {
			far.(*Conn).SetLinger(0)
			far.Close()
			p.run(30 * ms)
		}
	}
	p.noFlows()
}

// noFlows fails if a flow remains.
func (p *longPath) noFlows() {
	p.t.Helper()
	p.run(time.Second)
	for i, s := range p.ends {
		if n := len(s.dev.queues[0].flows.byID); n > 0 {
			p.t.Errorf("%d flows remain at end %d", n, i)
		}
	}
}

// A request-response exchange beside a bulk transfer is only delayed by the queue of the path, not
// by the unsent data of the transfer.
func TestDialogueBesideBulk(t *testing.T) {
	const rtt, mbit = 40 * ms, 20
	way := bottleneck(rtt, mbit, 4)
	p := newLongPath(t, way, way, Config{})
	p.bulk(0, 80)
	near, far := p.connect(0, 81)
	p.wg.Go(func() { io.Copy(far, far) })
	p.run(2 * time.Second)
	var worst time.Duration
	for range 50 {
		var done atomic.Bool
		p.wg.Go(func() {
			var b [64]byte
			near.Write(b[:])
			io.ReadFull(near, b[:])
			done.Store(true)
		})
		start := p.now
		for !done.Load() && p.now < start+2*time.Second {
			p.run(ms)
		}
		worst = max(worst, p.now-start)
		p.run(37 * ms)
	}
	if worst > 2*rtt {
		t.Errorf("a round trip took up to %v beside a bulk transfer, %v without", worst, rtt)
	}
}

// Transfers over a long path stay within a small budget. All make progress, and no byte is lost.
func TestManyTransfersInASmallBudget(t *testing.T) {
	const transfers, budget = 64, 6 << 20
	way := bottleneck(150*ms, 100, 1)
	p := newLongPath(t, way, way, Config{Buffers: budget})
	var all []*transfer
	for i := range transfers {
		all = append(all, p.bulk(i%2, uint16(100+i)))
	}
	p.run(5 * time.Second)
	for i, x := range all {
		before := x.arrived.Load()
		if i == 0 {
			p.run(3 * time.Second)
		}
		if i > 0 && x.arrived.Load() == 0 || i == 0 && x.arrived.Load() == before {
			t.Errorf("transfer %d makes no progress", i)
		}
	}
	for i, s := range p.ends {
		s.memory.mu.Lock()
		for d, n := range s.memory.granted {
			if n > budget/2 {
				t.Errorf("end %d has granted %d bytes in direction %d", i, n, d)
			}
		}
		s.memory.mu.Unlock()
		unsent := 0
		s.dev.queues[0].mu.Lock()
		for _, f := range s.dev.queues[0].flows.byID {
			if f.snd != nil {
				acked := f.snd.Acked() - f.progress.upTo + uint32(f.progress.total)
				unsent += int(uint32(f.conn.written.Load()) - acked)
			}
		}
		s.dev.queues[0].mu.Unlock()
		if unsent > budget/2 {
			t.Errorf("end %d holds %d unacknowledged bytes", i, unsent)
		}
	}
}

// The buffers of a connection that has grown shrink again when it is idle.
func TestIdleConnectionsShrink(t *testing.T) {
	way := bottleneck(100*ms, 200, 1)
	p := newLongPath(t, way, way, Config{Buffers: 256 << 20})
	near, far := p.connect(0, 80)
	var got atomic.Int64
	p.wg.Go(func() {
		n, _ := io.Copy(io.Discard, far)
		got.Store(n)
	})
	p.wg.Go(func() { near.Write(make([]byte, 40<<20)) })
	sizes := func() (n, m int) {
		p.ends[0].memory.mu.Lock()
		n = p.ends[0].memory.granted[sending]
		p.ends[0].memory.mu.Unlock()
		p.ends[1].memory.mu.Lock()
		defer p.ends[1].memory.mu.Unlock()
		return n, p.ends[1].memory.granted[receiving]
	}
	p.run(1500 * ms)
	if n, m := sizes(); n < 2*firstShare || m < 2*firstShare {
		t.Errorf("busy: buffers of %d bytes to send and %d to receive", n, m)
	}
	p.run(20 * time.Second)
	if n, m := sizes(); n != firstShare || m != firstShare {
		t.Errorf("idle: buffers of %d bytes to send and %d to receive, want %d", n, m, firstShare)
	}
}

// Sending to a peer without SACK works too, though slowly if packets are lost.
func TestPeerWithoutSACK(t *testing.T) {
	const rtt, mbit = 40 * ms, 20
	way := bottleneck(rtt, mbit, 1)
	way.Loss = 0.002
	p := newLongPath(t, way, way, Config{})
	p.mangle = func(packet []byte) {
		_, hdr, _ := classify(packet)
		tcp := header.TCP(packet[header.IPv4MinimumSize:hdr])
		for o := tcp.Options(); len(o) > 1; {
			n := 1
			if o[0] > header.TCPOptionNOP {
				n = int(o[1])
			}
			if o[0] == header.TCPOptionSACK || o[0] == header.TCPOptionSACKPermitted {
				for i := range n {
					o[i] = header.TCPOptionNOP
				}
			}
			o = o[n:]
		}
	}
	x := p.bulk(0, 80)
	p.run(8 * time.Second)
	if got := p.perTrip(x, rtt, mbit, 100); got < 0.05 {
		t.Errorf("%.2f of the capacity is used", got)
	}
}

func TestCongestionText(t *testing.T) {
	for _, c := range []Congestion{BBR, CUBIC} {
		if got, err := ParseCongestion(fmt.Sprint(c)); got != c || err != nil {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	if _, err := ParseCongestion("vegas"); err == nil {
		t.Error("vegas was accepted")
	}
	if s, err := New(Config{Congestion: 7}); err == nil {
		s.Close()
		t.Error("an unknown congestion control was accepted")
	}
}

// When the path of a connection becomes longer, as from a direct path to a relay, the connection
// reaches the speed of the new path within a few round trips after PathChanged.
func TestPathChanges(t *testing.T) {
	const mbit = 50
	short, long := bottleneck(10*ms, mbit, 4), bottleneck(150*ms, mbit, 1)
	p := newLongPath(t, short, short, Config{})
	x := p.bulk(0, 80)
	p.run(2 * time.Second)
	for i := range p.dirs {
		p.dirs[i] = netem.NewDirection(long, 3)
	}
	for _, s := range p.ends {
		s.PathChanged(func(a netip.Addr) bool { return a == addrA4 || a == addrB4 })
	}
	p.run(10 * 150 * ms)
	if got := p.perTrip(x, 150*ms, mbit, 5); got < 0.85 {
		t.Errorf("%.2f of the capacity of the new path is used", got)
	}
}
