package snoop

import (
	"testing"
	"time"

	"ginnel/internal/netem"
)

const ms = time.Millisecond

// link describes a path with a bottleneck, whose queue holds bdps bandwidth-delay products.
func link(rtt time.Duration, mbit int64, bdps float64) netem.Config {
	bdp := float64(mbit*1e6/8) * rtt.Seconds()
	return netem.Config{Delay: rtt / 2, Rate: mbit * 1e6, Queue: int(max(bdps*bdp, 20e3))}
}

// best returns the rate of payload at which a link is fully used, in Mbit/s.
func best(mbit int64) float64 { return float64(mbit) * simMSS / (simMSS + simHeader) }

// A connection alone on a path uses nearly all of it, at any delay, rate and queue length, and
// although some packets are lost or reordered.
func TestPaths(t *testing.T) {
	if underRace {
		t.Skip("one goroutine; takes minutes under the race detector")
	}
	for _, p := range []struct {
		rtt  time.Duration
		mbit int64
	}{{ms, 20}, {ms, 100}, {20 * ms, 20}, {20 * ms, 100}, {66 * ms, 20}, {66 * ms, 300}, {150 * ms, 100}, {300 * ms, 20}} {
		for _, c := range []struct {
			name       string
			queue      float64
			loss, late float64
			want       float64 // of the best
		}{
			{"clean", 1, 0, 0, 0.95},
			{"shallow queue", 0.25, 0, 0, 0.9},
			{"0.1 % lost", 1, 0.001, 0, 0.93},
			{"1 % lost", 1, 0.01, 0, 0.85},
			{"1 % late", 1, 0, 0.01, 0.93},
		} {
			way := link(p.rtt, p.mbit, c.queue)
			way.Loss, way.Reorder, way.ReorderDelay = c.loss, c.late, min(p.rtt/4, 4*ms)
			w := newWorld(way, netem.Config{Delay: way.Delay}, 1)
			f := w.connect(1 << 30)
			warm := max(2*time.Second, 20*p.rtt)
			end := warm + max(2*time.Second, 40*p.rtt) // bytes that wait for a retransmission at the end do not count
			w.run(end)
			if got := f.between(warm, end) / best(p.mbit); got < c.want {
				t.Errorf("%v, %d Mbit/s, %s: %.2f of the rate, want %.2f", p.rtt, p.mbit, c.name, got, c.want)
			}
		}
	}
}

// Within a site packets leave in bursts of a quantum, at 100 Mbit/s 20 packets every 2 ms, so that
// not each needs a timer. On longer paths they leave one by one.
func TestBursts(t *testing.T) {
	for rtt, want := range map[time.Duration]float64{10 * ms: 20, 66 * ms: 1} {
		way := link(rtt, 100, 1)
		w := newWorld(way, netem.Config{Delay: way.Delay}, 1)
		f := w.connect(1 << 30)
		w.run(2 * time.Second)
		packets, bursts := f.s.Stats().Packets, f.bursts
		w.run(4 * time.Second)
		packets, bursts = f.s.Stats().Packets-packets, f.bursts-bursts
		if size := float64(packets) / float64(bursts); size < want*3/4 || size > want*5/4+1 {
			t.Errorf("%v: %d packets in %d bursts: %.1f in each, want %v", rtt, packets, bursts, size, want)
		}
	}
}

// With random loss in both directions on a very long path, a connection still uses most of the
// rate.
func TestHeavyLoss(t *testing.T) {
	if underRace {
		t.Skip("one goroutine; takes minutes under the race detector")
	}
	way := link(200*ms, 100, 1)
	way.Loss = 0.02
	w := newWorld(way, netem.Config{Delay: way.Delay, Loss: way.Loss}, 3)
	f := w.connect(1 << 30)
	w.run(20 * time.Second)
	if got := f.between(8*time.Second, 20*time.Second) / best(100); got < 0.75 {
		t.Errorf("%.2f of the rate, want 0.75", got)
	}
}

// Startup overshoots the queue of the bottleneck. The losses are retransmitted within a few round
// trips: beginning one second after the first drop, at least half of the rate arrives in order in
// each quarter of a second.
func TestOvershoot(t *testing.T) {
	for _, queue := range []float64{1, 0.25, 0.05} {
		way := link(66*ms, 300, queue)
		w := newWorld(way, netem.Config{Delay: way.Delay}, 1)
		f := w.connect(1 << 30)
		drop := time.Duration(0)
		for ; w.now < 4*time.Second; w.run(w.now + 250*ms) {
			switch {
			case drop == 0 && w.out.Stats().QueueFull > 0:
				drop = w.now
			case drop > 0 && w.now > drop+time.Second:
				if got := f.between(w.now-250*ms, w.now) / best(300); got < 0.5 {
					t.Errorf("queue of %v: at %v %.2f of the rate", queue, w.now, got)
				}
			}
		}
		if drop == 0 && queue < 1 {
			t.Errorf("queue of %v: nothing was dropped", queue)
		}
	}
}

// Once reordering was seen, packets that are late by less than a quarter of the round-trip time are
// hardly ever retransmitted.
func TestReorderingIsNotLoss(t *testing.T) {
	way := link(20*ms, 100, 1)
	way.Reorder, way.ReorderDelay = 0.05, 4*ms
	w := newWorld(way, netem.Config{Delay: way.Delay}, 1)
	f := w.connect(1 << 30)
	w.run(2 * time.Second)
	before, full := f.s.Stats(), w.out.Stats().QueueFull
	w.run(6 * time.Second)
	after := f.s.Stats()
	full = w.out.Stats().QueueFull - full // dropped, so their retransmission is not spurious
	again, all := after.Repeated-before.Repeated-full, after.Packets-before.Packets
	if float64(again) > 0.002*float64(all) {
		t.Errorf("%d of %d packets were sent again", again, all)
	}
}

// Two connections on one path share its rate, also if the second one begins while the first has all
// of it.
func TestFairness(t *testing.T) {
	if underRace {
		t.Skip("one goroutine; takes minutes under the race detector")
	}
	for _, c := range []struct {
		name  string
		queue float64
		late  time.Duration // when the second one begins
		want  float64       // its share, 20 s later
	}{
		{"both at once", 1, 0, 0.35},
		{"one later", 1, 3 * time.Second, 0.15},
		{"both at once, shallow queue", 0.25, 0, 0.35},
		{"one later, shallow queue", 0.25, 3 * time.Second, 0.12},
		{"one later, deep queue", 2, 3 * time.Second, 0.25},
	} {
		t.Run(c.name, func(t *testing.T) {
			way := link(40*ms, 20, c.queue)
			w := newWorld(way, netem.Config{Delay: way.Delay}, 1)
			a := w.connect(1 << 30)
			w.run(c.late)
			b := w.connect(1 << 30)
			from, to := c.late+15*time.Second, c.late+25*time.Second
			w.run(to)
			x, y := a.between(from, to), b.between(from, to)
			if share := min(x, y) / (x + y); share < c.want || x+y < 0.9*best(20) {
				t.Errorf("%.1f and %.1f Mbit/s of %.1f", x, y, best(20))
			}
		})
	}
}

// After an outage of some seconds, a connection uses the path again within a second, and delivers
// all bytes.
func TestOutage(t *testing.T) {
	way := link(66*ms, 100, 1)
	w := newWorld(way, netem.Config{Delay: way.Delay}, 1)
	f := w.connect(1 << 30)
	w.run(3 * time.Second)
	w.out = netem.NewDirection(netem.Config{MaxPacket: 1}, 1)
	w.run(8 * time.Second)
	w.out = netem.NewDirection(way, 1)
	w.run(8*time.Second + maxRTO)
	resumed := time.Duration(0)
	for _, m := range f.received {
		if m.at > 8*time.Second {
			resumed = m.at
			break
		}
	}
	if resumed == 0 || resumed > 8*time.Second+5*time.Second {
		t.Fatalf("bytes arrive again only at %v", resumed)
	}
	if got := f.between(resumed+time.Second, resumed+2*time.Second) / best(100); got < 0.8 {
		t.Errorf("a second after that %.2f of the rate", got)
	}
}

// until runs the simulation until the model of f is in state, and returns how long that took.
func (f *simFlow) until(t *testing.T, state string, limit time.Duration) time.Duration {
	t.Helper()
	for begun := f.w.now; ; f.w.run(f.w.now + ms) {
		if f.s.model.State() == state {
			return f.w.now - begun
		}
		if f.w.now-begun > limit {
			t.Fatalf("not %s within %v, but %s", state, limit, f.s.model.State())
		}
	}
}

// A connection finds the bandwidth within a few round trips, drains the queue of startup, and
// cruises with a short queue. Now and then it probes for more.
func TestStates(t *testing.T) {
	way := link(40*ms, 20, 2)
	w := newWorld(way, netem.Config{Delay: way.Delay}, 1)
	f := w.connect(1 << 30)
	f.until(t, "drain", time.Second)
	f.until(t, "cruise", time.Second)
	w.run(w.now + 500*ms)
	if rate := 8e-6 * f.s.model.Bandwidth(); rate < 0.95*best(20) || rate > 1.1*best(20) {
		t.Errorf("bandwidth of %.1f Mbit/s, want %.1f", rate, best(20))
	}
	if rtt := f.s.model.MinRTT(); rtt < 40*ms || rtt > 42*ms {
		t.Errorf("round-trip time of %v", rtt)
	}
	if queue := w.out.Backlog(w.now); queue > 10_000 {
		t.Errorf("%d bytes wait while cruising: a quarter of a round-trip time is 25,000", queue)
	}
	if took := f.until(t, "refill", 4*time.Second); took < time.Second {
		t.Errorf("it probes again after %v", took)
	}
	f.until(t, "up", time.Second)
	f.until(t, "down", time.Second)
	f.until(t, "cruise", time.Second)
}

// The queue at the bottleneck stays short, except during startup.
func TestQueue(t *testing.T) {
	way := link(40*ms, 20, 4)
	w := newWorld(way, netem.Config{Delay: way.Delay}, 1)
	w.connect(1 << 30)
	w.run(2 * time.Second)
	const samples = 10_000
	over := 0
	for range samples {
		w.run(w.now + ms)
		if w.out.Backlog(w.now) > 50_000 { // half a bandwidth-delay product
			over++
		}
	}
	if over > samples/50 {
		t.Errorf("for %d of %d ms more than half of a bandwidth-delay product waits", over, samples)
	}
}

// If a path becomes longer, the model measures its minimum round-trip time again.
func TestLongerPath(t *testing.T) {
	if underRace {
		t.Skip("one goroutine; takes minutes under the race detector")
	}
	way := link(20*ms, 20, 8)
	w := newWorld(way, netem.Config{Delay: way.Delay}, 1)
	f := w.connect(1 << 30)
	w.run(3 * time.Second)
	way.Delay = 50 * ms
	w.out = netem.NewDirection(way, 1)
	w.run(20 * time.Second)
	if rtt := f.s.model.MinRTT(); rtt < 60*ms || rtt > 62*ms {
		t.Errorf("round-trip time of %v, want 60ms", rtt)
	}
	if got := f.between(16*time.Second, 20*time.Second) / best(20); got < 0.9 {
		t.Errorf("%.2f of the rate", got)
	}
}
