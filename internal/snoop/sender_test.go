package snoop

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// talk is the conversation of a test with a Sender. Packets have 1,000 bytes, and the first one has
// sequence number 0.
type talk struct {
	t   *testing.T
	s   *Sender
	now time.Duration
}

func newTalk(t *testing.T) *talk { return &talk{t, New(0, 1000), time.Second} }

// queue queues n packets.
func (c *talk) queue(n int) {
	c.t.Helper()
	if !c.s.Queue(c.now, Segment{Seq: c.s.end, Len: 1000 * n}) {
		c.t.Fatal("Queue has refused the next segment of the stream")
	}
}

// want compares the packets that leave now, without pacing, with numbers: their places in the
// stream.
func (c *talk) want(what string, numbers ...int) {
	c.t.Helper()
	var got []int
	for {
		c.s.pace = pacer{}
		o, ok := c.s.Next(c.now)
		if !ok {
			break
		}
		got = append(got, int(o.Seq/1000))
	}
	if !slices.Equal(got, numbers) {
		c.t.Fatalf("%s: got packets %v, want %v", what, got, numbers)
	}
	c.check()
}

// wait advances the time by d, and calls Expire whenever the timer is due.
func (c *talk) wait(d time.Duration) {
	c.t.Helper()
	end := c.now + d
	for n := 0; ; n++ {
		at := c.s.timer.at
		if at == 0 || at > end {
			break
		}
		c.now = max(c.now, at)
		if c.s.Expire(c.now); n == 1000 {
			c.t.Fatal("the timer does not move on")
		}
	}
	c.now = end
}

// ack acknowledges the packets before number n, and selectively those in ranges, pairs of [from,
// to).
func (c *talk) ack(n int, ranges ...int) {
	c.t.Helper()
	var sacks []Block
	for i := 0; i < len(ranges); i += 2 {
		sacks = append(sacks, Block{uint32(1000 * ranges[i]), uint32(1000 * ranges[i+1])})
	}
	c.s.Ack(c.now, uint32(1000*n), sacks)
	c.check()
}

// check compares the Sender's byte counts with its packets.
func (c *talk) check() {
	c.t.Helper()
	s, flight, lostBytes := c.s, 0, 0
	for n := s.pkts.first; n != s.pkts.last(); n = s.pkts.next(n) {
		switch p := s.pkts.at(n); p.status {
		case inFlight:
			flight += int(p.length)
		case lost:
			lostBytes += int(p.length)
		}
	}
	if flight != s.flight || lostBytes != s.lostBytes {
		c.t.Fatalf("counted %d bytes in flight and %d lost, want %d and %d", s.flight, s.lostBytes, flight, lostBytes)
	}
}

// begin sends ten packets and acknowledges them after 100 ms, so that the Sender knows the
// round-trip time.
func (c *talk) begin() {
	c.t.Helper()
	c.queue(10)
	c.want("the initial window", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	c.wait(100 * ms)
	c.ack(10)
	c.wait(ms)
}

// As long as no reordering was seen, a packet is lost when three packets that were sent later have
// arrived (RFC 8985, section 6.2).
func TestLossBySACK(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(6)
	c.want("the next", 10, 11, 12, 13, 14, 15)
	c.wait(100 * ms)
	c.ack(10, 11, 12)
	c.want("one later packet has arrived")
	c.ack(10, 11, 13)
	c.want("two later packets have arrived")
	c.ack(10, 11, 14)
	c.want("three later packets have arrived: it is lost", 10)
	c.ack(10, 11, 16)
	c.want("it is retransmitted once")
	c.wait(100 * ms)
	c.ack(16)
	if !c.s.Idle() || c.s.stats.Repeated != 1 || c.s.stats.Timeouts != 0 {
		t.Errorf("%+v", c.s.stats)
	}
}

// After reordering was seen, a packet is lost only if it is late by more than a quarter of the
// round-trip time (RFC 8985, section 6.2, step 4).
func TestReorderingWindow(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(4)
	c.want("the next", 10, 11, 12, 13)
	c.wait(100 * ms)
	c.ack(10, 11, 12) // 11 has arrived before 10
	c.wait(10 * ms)
	c.ack(14)
	c.queue(6)
	c.want("then", 14, 15, 16, 17, 18, 19)
	c.wait(100 * ms)
	c.ack(14, 15, 20)
	c.want("five have passed it")
	c.wait(24 * ms)
	c.want("for 24 ms")
	c.wait(2 * ms)
	c.want("for 26 ms: it is lost", 14)
}

// The reordering window grows after a D-SACK (RFC 2883), and when a packet arrives that was marked
// as lost.
func TestSpuriousRepetitions(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(5)
	c.want("the next", 10, 11, 12, 13, 14)
	c.wait(100 * ms)
	c.ack(10, 11, 15)
	c.want("lost, as it seems", 10)
	c.wait(ms)
	c.ack(15) // too soon for the acknowledgement of the retransmission
	if !c.s.rack.reordered || c.s.rack.window != 2 {
		t.Errorf("%+v", c.s.rack)
	}
	c.wait(99 * ms)
	c.s.Ack(c.now, 15000, []Block{{10000, 11000}})
	if c.s.stats.Spurious != 1 || c.s.rack.window != 2 {
		t.Errorf("the same packet counts twice: %+v, %+v", c.s.stats, c.s.rack)
	}
}

// If the last packets are lost, no acknowledgement shows that. After two round-trip times the last
// one is sent again as a probe (RFC 8985, section 7.3), and its acknowledgement shows the other
// losses.
func TestTailLossProbe(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(3)
	c.want("the last", 10, 11, 12)
	c.wait(199 * ms)
	c.want("nothing before two round-trip times")
	c.wait(2 * ms)
	c.want("the probe", 12)
	c.wait(100 * ms)
	c.ack(10, 12, 13)
	c.wait(30 * ms)
	c.want("tells of the rest", 10, 11)
	c.wait(100 * ms)
	c.ack(13)
	if !c.s.Idle() || c.s.stats.Timeouts != 0 {
		t.Errorf("%+v", c.s.stats)
	}
}

// A probe consists of new data if there is any.
func TestProbeOfNewData(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(1)
	c.want("a packet", 10)
	c.wait(200 * ms) // with a single packet in flight the probe timeout is 250 ms
	c.s.Queue(c.now, Segment{Seq: c.s.end, Len: 1000})
	c.want("data that may leave do", 11)
	c.queue(1)
	c.s.pace.next = c.now + time.Hour
	c.wait(210 * ms)
	c.want("a probe does not wait for its turn", 12)
}

// Without acknowledgements everything counts as lost, and the first packet is retransmitted. The
// timeout doubles each time, up to eight seconds.
func TestRetransmissionTimeout(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(4)
	c.want("the next", 10, 11, 12, 13)
	c.wait(210 * ms)
	c.want("the probe", 13)
	times := []time.Duration{}
	for last := c.now; len(times) < 9; {
		c.wait(ms)
		if o, ok := c.s.Next(c.now); ok {
			if o.Seq != 10000 || !o.Repeated {
				t.Fatalf("%+v, want the first packet", o)
			}
			times = append(times, c.now-last)
			last = c.now
		}
	}
	for i, d := range times {
		want := min(times[1]<<i/2, maxRTO)
		if (d-want).Abs() > 2*ms && i > 0 {
			t.Errorf("timeout %d after %v, want %v", i+1, d, want)
		}
	}
	if times[0] < minRTO || times[0] > time.Second || c.s.stats.Timeouts != 9 {
		t.Errorf("%v, %+v", times, c.s.stats)
	}
	c.ack(11)
	c.want("an answer: two packets may be in flight", 11, 12)
	c.wait(100 * ms)
	c.ack(14)
	if !c.s.Idle() || c.s.rtt.backoff != 0 {
		t.Errorf("backoff %d", c.s.rtt.backoff)
	}
}

// For a peer without SACK, duplicate acknowledgements show a loss (RFC 5681, section 3.2), and a
// partial acknowledgement during recovery shows that the next packet is lost too (RFC 6582).
func TestPeerWithoutSACK(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(8)
	c.want("the next", 10, 11, 12, 13, 14, 15, 16, 17)
	c.wait(100 * ms)
	c.s.Duplicate(c.now)
	c.s.Duplicate(c.now)
	c.want("two repetitions")
	c.s.Duplicate(c.now)
	c.want("three: it is lost", 10)
	c.s.Duplicate(c.now)
	c.want("once")
	c.wait(100 * ms)
	c.ack(13)
	c.want("a part is acknowledged: so is the next", 13)
	c.wait(100 * ms)
	c.ack(18)
	if !c.s.Idle() || c.s.stats.Timeouts != 0 {
		t.Errorf("%+v", c.s.stats)
	}
}

// A peer may discard data that it has selectively acknowledged (RFC 2018, section 8).
func TestReneging(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(2)
	c.want("the next", 10, 11)
	c.wait(100 * ms)
	c.ack(10, 10, 12) // the peer has packets 10 and 11, but the cumulative acknowledgement does not include them
	c.want("nothing is in flight")
	c.wait(2 * time.Second)
	c.want("both are sent again", 10)
	c.wait(100 * ms)
	c.ack(11)
	c.want("one after the other", 11)
}

// A FIN gets a packet of its own, as TCP has handed it over, and is retransmitted like data.
func TestFIN(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.s.Queue(c.now, Segment{Seq: 10000, Len: 500})
	c.s.Queue(c.now, Segment{Seq: 10500, Len: 1, Fin: true})
	o, _ := c.s.Next(c.now)
	if o != (Outgoing{Seq: 10000, Len: 500}) {
		t.Errorf("%+v", o)
	}
	if o, _ = c.s.Next(c.now); o != (Outgoing{Seq: 10500, Len: 1, Fin: true}) {
		t.Errorf("%+v", o)
	}
	c.wait(250 * ms)
	if o, _ = c.s.Next(c.now); o != (Outgoing{Seq: 10500, Len: 1, Fin: true, Repeated: true}) {
		t.Errorf("%+v", o)
	}
	c.s.Ack(c.now, 10501, nil)
	if !c.s.Idle() {
		t.Error("not all is acknowledged")
	}
}

// After Recut, everything that is not acknowledged is sent again in packets of the new size.
func TestRecut(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(2)
	c.want("the next", 10, 11)
	c.s.Recut(c.now, 600)
	var got []int
	for {
		c.s.pace = pacer{}
		o, ok := c.s.Next(c.now)
		if !ok {
			break
		}
		got = append(got, o.Len)
	}
	if !slices.Equal(got, []int{600, 600, 600, 200}) {
		t.Errorf("cut to %v", got)
	}
	c.wait(100 * ms)
	c.ack(12)
	if !c.s.Idle() {
		t.Error("not all is acknowledged")
	}
}

// A closed window is probed at growing intervals, until it is open.
func TestClosedWindow(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.s.Closed(c.now)
	var asked []time.Duration
	for start := c.now; c.now < start+4*time.Second; {
		at := c.s.Wake()
		if c.now = at; c.s.Expire(at) {
			asked = append(asked, at-start)
		}
	}
	if len(asked) < 3 || len(asked) > 5 {
		t.Errorf("asked at %v", asked)
	}
	c.s.Open()
	if at := c.s.Wake(); at != 0 {
		t.Errorf("something is due at %v", at)
	}
}

// Acknowledgements that are old or beyond what was sent change nothing.
func TestInvalidAcknowledgements(t *testing.T) {
	c := newTalk(t)
	c.begin()
	c.queue(5)
	c.want("the next", 10, 11, 12, 13, 14)
	for _, a := range []struct {
		ack   uint32
		sacks []Block
	}{
		{20000, nil}, {9000, nil}, {10000, []Block{{13000, 12000}}}, {10000, []Block{{30000, 31000}}},
		{10000, []Block{{1 << 31, 1<<31 + 5}}},
		{10000, []Block{{12000, 12000}}}, {^uint32(0), nil},
	} {
		c.s.Ack(c.now, a.ack, a.sacks)
		c.check()
		if c.s.flight != 5000 || len(c.s.sacked) != 0 {
			t.Errorf("%+v: %d in flight, %v", a, c.s.flight, c.s.sacked)
		}
	}
	if c.s.Queue(c.now, Segment{Seq: 5000, Len: 1000}) || c.s.Queue(c.now, Segment{Seq: 16000, Len: 1000}) {
		t.Error("data that do not continue the stream were taken")
	}
}

// blocks agrees with a naive set: ranges are merged, and each new part is reported once.
func TestBlocks(t *testing.T) {
	for range 200 {
		var s blocks
		var want [100]bool
		base := rand.Uint32()
		for range 30 {
			from := rand.IntN(100)
			to := from + 1 + rand.IntN(100-from)
			told := map[int]bool{}
			s.add(Block{base + uint32(from), base + uint32(to)}, func(b Block) {
				for seq := b.Start; seq != b.End; seq++ {
					told[int(seq-base)] = true
				}
			})
			for i := from; i < to; i++ {
				if told[i] == want[i] {
					t.Fatalf("%d: reported as new %v, in the set before %v", i, told[i], want[i])
				}
				want[i] = true
			}
			if rand.IntN(5) == 0 {
				n := rand.IntN(60)
				s.forget(base + uint32(n))
				for i := range n {
					want[i] = false
				}
			}
		}
		for i := range want {
			if got := s.holds(Block{base + uint32(i), base + uint32(i) + 1}); got != want[i] {
				t.Fatalf("%d: %v, want %v", i, got, want[i])
			}
		}
		for i := 1; i < len(s); i++ {
			if !after(s[i].Start, s[i-1].End) {
				t.Fatalf("ranges of %v touch", s)
			}
		}
	}
}

// Sending and acknowledging a packet does not allocate.
func TestAllocations(t *testing.T) {
	c := newTalk(t)
	c.begin()
	round := func() {
		c.s.Queue(c.now, Segment{Seq: c.s.end, Len: 4000})
		for {
			if _, ok := c.s.Next(c.now); !ok {
				break
			}
		}
		c.now += 10 * ms
		una := c.s.una
		c.s.Ack(c.now, una, []Block{{una + 1000, una + 2000}})
		c.s.Ack(c.now, c.s.nxt, nil)
		c.s.Expire(c.now)
	}
	for range 100 {
		round()
	}
	if n := testing.AllocsPerRun(200, round); n > 0 {
		t.Errorf("%v allocations for four packets and two acknowledgements", n)
	}
}

// FuzzAck checks that after any acknowledgements the counts of a Sender are right and it can still
// finish.
func FuzzAck(f *testing.F) {
	f.Add([]byte{10, 0, 0, 12, 13, 200})
	f.Fuzz(func(t *testing.T, script []byte) {
		script = script[:min(len(script), 300)]
		c := newTalk(t)
		c.queue(20)
		for len(script) >= 3 {
			c.now += time.Duration(script[2]) * ms
			ack := uint32(script[0]) * 500
			c.s.Ack(c.now, ack, []Block{{ack + uint32(script[1])*100, ack + uint32(script[2])*100}})
			c.s.Expire(c.now)
			for {
				if _, ok := c.s.Next(c.now); !ok {
					break
				}
			}
			c.check()
			script = script[3:]
		}
		for n := 0; !c.s.Idle(); n++ {
			if at := c.s.Wake(); at == 0 || n > 1000 {
				t.Fatalf("no progress with %d in flight, %d lost, %d unsent", c.s.flight, c.s.lostBytes, c.s.Unsent())
			} else {
				c.now = max(c.now, at)
			}
			c.s.Expire(c.now)
			for {
				if _, ok := c.s.Next(c.now); !ok {
					break
				}
			}
			if n%3 == 2 {
				c.s.Ack(c.now, c.s.nxt, nil)
			}
			c.check()
		}
	})
}
