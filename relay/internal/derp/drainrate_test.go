package derp

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// All flows of a queue together hold what the receiver takes in a tenth of a second, and at least
// some packets.
func TestOutboxQueueFollowsRate(t *testing.T) {
	for _, c := range []struct {
		name        string
		rate        int // bytes a millisecond that the receiver reads
		flows       int
		least, most int // bytes queued
	}{
		{"1 Mbit/s", 125, 1, 28 << 10, 33 << 10},
		{"20 Mbit/s", 2500, 1, 200_000, 260_000},
		{"20 Mbit/s, 8 flows", 2500, 8, 200_000, 270_000},
		{"100 Mbit/s", 12_500, 1, 1_000_000, 1_300_000},
		{"1 Gbit/s", 125_000, 1, maxQueue - 2*125_000, maxQueue},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newTestOutbox(1000)
				defer o.end()
				o.Attach(o.conn)
				var reading sync.WaitGroup
				defer reading.Wait()
				defer o.conn.base.Close()
				reading.Go(func() { readAt(o.far, c.rate) })
				queued := 0           // at the most, at the end
				for n := range 1000 { // for a second, twice what the receiver takes
					for i := range c.flows {
						o.Send(testFlow(i, ClassData), testFrames(i, n, 2*c.rate/c.flows/1000+1, 1000), 0)
					}
					if n > 900 {
						queued = max(queued, o.queuedBytes())
					}
					time.Sleep(time.Millisecond)
				}
				if queued < c.least || queued > c.most {
					t.Errorf("%d bytes queued, want between %d and %d", queued, c.least, c.most)
				}
			})
		})
	}
}

func (o *Outbox) queuedBytes() (sum int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.queue.flows {
		sum += f.bytes
	}
	return sum
}

// readAt reads so many bytes each millisecond until r ends.
func readAt(r io.Reader, rate int) {
	buf := make([]byte, rate)
	for {
		if _, err := io.ReadFull(r, buf); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// The rate of one connection does not hold for the next one.
func TestOutboxForgetsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTestOutbox(1000)
		defer o.end()
		o.rate, o.queue.packetLimit = drainRate{rate: 1}, minQueue
		o.Attach(o.conn)
		if got, want := o.queue.limit(ClassData, 1), testLimits.Flow[ClassData]; got != want {
			t.Errorf("a flow may queue %d bytes for a new connection, want %d", got, want)
		}
	})
}

// A receiver that was slow long ago has as much room as a new one.
func TestOldRateIsForgotten(t *testing.T) {
	now := time.Now()
	var r drainRate
	r.start(now)
	r.add(1000, now.Add(rateSpan))
	now = now.Add(rateSpan)
	if r.rate == 0 || r.start(now.Add(maxRateAge-time.Second)) || r.rate == 0 {
		t.Error("a rate is forgotten while it holds")
	}
	if !r.start(now.Add(maxRateAge)) || r.rate != 0 {
		t.Error("an old rate is not forgotten")
	}
	if r.start(now.Add(2 * maxRateAge)) {
		t.Error("a rate that is not known is forgotten")
	}
}
