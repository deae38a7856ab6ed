package netem

import (
	"math"
	"testing"
	"time"
)

const ms = time.Millisecond

// Without a bottleneck every packet arrives after the delay, regardless of its size.
func TestDelay(t *testing.T) {
	d := NewDirection(Config{Delay: 33 * ms}, 1)
	for i := range 10 {
		now := time.Duration(i) * ms
		if at, v := d.Send(now, 100*i); at != now+33*ms || v != Delivered {
			t.Fatalf("packet %d: %v, %v", i, at, v)
		}
	}
}

// A bottleneck of 8 Mbit/s sends one byte per microsecond. Packets leave one after the other, and a
// packet that does not fit into the queue is dropped.
func TestBottleneck(t *testing.T) {
	d := NewDirection(Config{Delay: 10 * ms, Rate: 8e6, Queue: 3000}, 1)
	for i, want := range []time.Duration{11 * ms, 12 * ms, 13 * ms} {
		if at, v := d.Send(0, 1000); at != want || v != Delivered {
			t.Fatalf("packet %d: %v, %v, want %v", i, at, v, want)
		}
	}
	if got := d.Backlog(0); got != 3000 {
		t.Errorf("%d bytes wait, want 3000", got)
	}
	if _, v := d.Send(0, 1); v != QueueFull {
		t.Errorf("a packet too many: %v", v)
	}
	if at, v := d.Send(ms, 1000); at != 14*ms || v != Delivered {
		t.Errorf("after one has left: %v, %v", at, v)
	}
	if at, v := d.Send(time.Second, 1000); at != time.Second+11*ms || v != Delivered {
		t.Errorf("after a pause: %v, %v", at, v)
	}
	if s := d.Stats(); s.Packets != 6 || s.QueueFull != 1 || s.Bytes != 5001 {
		t.Errorf("%+v", s)
	}
}

// The measured rate is the configured one, regardless of the size of packets.
func TestRate(t *testing.T) {
	for _, size := range []int{60, 576, 1500} {
		d := NewDirection(Config{Rate: 300e6, Queue: 100e3}, 1)
		var bytes int
		for now := time.Duration(0); now < time.Second; now += time.Microsecond {
			if at, v := d.Send(now, size); v == Delivered && at < time.Second {
				bytes += size
			}
		}
		if got := float64(bytes * 8); math.Abs(got/300e6-1) > 0.01 && size > 100 {
			t.Errorf("%d bytes a packet: %.0f bit/s", size, got)
		}
	}
}

// The fraction of losses and the mean length of bursts are as configured.
func TestLoss(t *testing.T) {
	const packets = 1e6
	for _, c := range []Config{{Loss: 0.001}, {Loss: 0.02}, {Loss: 0.02, Burst: 5}, {Loss: 0.3, Burst: 2}} {
		d := NewDirection(c, 7)
		var bursts int
		before := Delivered
		for i := range int(packets) {
			_, v := d.Send(time.Duration(i), 100)
			if v == Lost && before != Lost {
				bursts++
			}
			before = v
		}
		lost := float64(d.Stats().Lost)
		if got := lost / packets; math.Abs(got/c.Loss-1) > 0.1 {
			t.Errorf("%v: %v lost", c, got)
		}
		want := c.Burst
		if want == 0 {
			want = 1 / (1 - c.Loss) // independent losses form bursts by chance
		}
		if got := lost / float64(bursts); math.Abs(got/want-1) > 0.1 {
			t.Errorf("%v: bursts of %v packets, want %v", c, got, want)
		}
	}
}

// Jitter does not reorder packets. Reorder delays the configured fraction, and not the others.
func TestOrder(t *testing.T) {
	const packets = 1e5
	d := NewDirection(Config{Delay: 20 * ms, Jitter: 5 * ms}, 1)
	var last, sum time.Duration
	for i := range int(packets) {
		now := time.Duration(i) * 10 * ms
		at, _ := d.Send(now, 100)
		if at < last || at < now+20*ms || at >= now+25*ms {
			t.Fatalf("packet %d arrives at %v after %v", i, at, last)
		}
		last, sum = at, sum+at-now
	}
	if mean := sum / packets; mean < 22*ms || mean > 23*ms {
		t.Errorf("mean delay %v, want 22.5ms", mean)
	}

	d = NewDirection(Config{Delay: 20 * ms, Reorder: 0.05, ReorderDelay: 4 * ms}, 1)
	late := 0
	for i := range int(packets) {
		now := time.Duration(i) * ms
		switch at, _ := d.Send(now, 100); at - now {
		case 20 * ms:
		case 24 * ms:
			late++
		default:
			t.Fatalf("packet %d takes %v", i, at-now)
		}
	}
	if got := float64(late) / packets; math.Abs(got/0.05-1) > 0.1 || d.Stats().Late != uint64(late) {
		t.Errorf("%v are late, %+v", got, d.Stats())
	}
}

func TestBlackHole(t *testing.T) {
	d := NewDirection(Config{MaxPacket: 1400}, 1)
	if _, v := d.Send(0, 1401); v != TooLong {
		t.Errorf("1401 bytes: %v", v)
	}
	if _, v := d.Send(0, 1400); v != Delivered {
		t.Errorf("1400 bytes: %v", v)
	}
}

func TestText(t *testing.T) {
	const all = "delay=33ms,jitter=1ms,loss=0.1%,burst=3,reorder=1%,late=4ms,rate=300Mbit,queue=2475kB,max=1400"
	want := Config{
		Delay: 33 * ms, Jitter: ms, Loss: 0.001, Burst: 3, Reorder: 0.01, ReorderDelay: 4 * ms, Rate: 300e6,
		Queue: 2475e3, MaxPacket: 1400,
	}
	c, err := Parse(all)
	if err != nil || c != want {
		t.Errorf("got %+v, %v", c, err)
	}
	if got := c.String(); got != all {
		t.Errorf("got %s", got)
	}
	if c, err := Parse(""); err != nil || c != (Config{}) || c.String() != "" {
		t.Errorf("nothing: %+v, %v", c, err)
	}
	for _, bad := range []string{
		"delay", "delay=3", "speed=1", "loss=100%", "loss=-1%", "rate=1Mbyte", "queue=-5kB", "max=x",
	} {
		if c, err := Parse(bad); err == nil {
			t.Errorf("%s: got %+v, want an error", bad, c)
		}
	}
}
