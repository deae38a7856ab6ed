package netem

import (
	"math/rand/v2"
	"time"
)

// Config describes one direction of a path. The zero value has no delay, no loss and no limits.
type Config struct {
	Delay  time.Duration // propagation delay of every packet
	Jitter time.Duration // additional delay, uniform in [0, Jitter); packets stay in order

	Loss  float64 // fraction of packets lost after the bottleneck, 0 to 1
	Burst float64 // mean number of consecutive packets lost; 0 or 1: losses are independent

	Reorder      float64       // fraction of packets that are reordered
	ReorderDelay time.Duration // additional delay of these packets

	Rate  int64 // of the bottleneck in bit/s; 0: unlimited
	Queue int   // length of the bottleneck's queue in bytes; further packets are dropped (tail drop); 0: unlimited

	MaxPacket int // bytes; longer packets are dropped without an ICMP error (black hole); 0: unlimited
}

// Stats counts the packets of a Direction by their fate.
type Stats struct {
	Packets   uint64 // passed to Send
	Bytes     uint64 // of these packets
	QueueFull uint64 // dropped because the queue of the bottleneck was full
	Lost      uint64 // lost at random
	TooLong   uint64 // longer than MaxPacket
	Late      uint64 // reordered
}

// Verdict is the fate of a packet.
type Verdict int

// The verdicts.
const (
	Delivered Verdict = iota
	QueueFull
	Lost
	TooLong
)

// Direction models one direction of a path. Its owner calls Send with a time that never decreases.
type Direction struct {
	cfg   Config
	rand  *rand.Rand
	stats Stats

	idleAt time.Duration // when the queue of the bottleneck will be empty
	last   time.Duration // arrival of the last packet that was not reordered
	burst  bool          // in a burst of losses
}

// NewDirection returns a Direction. Its random choices depend only on seed.
func NewDirection(cfg Config, seed uint64) *Direction {
	return &Direction{cfg: cfg, rand: rand.New(rand.NewPCG(seed, seed))}
}

// Stats returns the counters so far.
func (d *Direction) Stats() Stats { return d.stats }

// Backlog returns how many bytes are in the queue of the bottleneck.
func (d *Direction) Backlog(now time.Duration) int {
	if d.cfg.Rate == 0 || d.idleAt <= now {
		return 0
	}
	return int(float64(d.idleAt-now) * float64(d.cfg.Rate) / 8 / float64(time.Second))
}

// Send sends a packet of size bytes at now. If the verdict is Delivered, it returns when the packet
// arrives.
func (d *Direction) Send(now time.Duration, size int) (arrival time.Duration, v Verdict) {
	d.stats.Packets++
	d.stats.Bytes += uint64(size)
	if d.cfg.MaxPacket > 0 && size > d.cfg.MaxPacket {
		d.stats.TooLong++
		return 0, TooLong
	}
	leaves := now
	if d.cfg.Rate > 0 {
		if d.cfg.Queue > 0 && d.Backlog(now)+size > d.cfg.Queue {
			d.stats.QueueFull++
			return 0, QueueFull
		}
		d.idleAt = max(d.idleAt, now) + time.Duration(float64(size*8)/float64(d.cfg.Rate)*float64(time.Second))
		leaves = d.idleAt
	}
	if d.lose() {
		d.stats.Lost++
		return 0, Lost
	}
	arrival = leaves + d.cfg.Delay
	if d.cfg.Jitter > 0 {
		arrival += time.Duration(d.rand.Int64N(int64(d.cfg.Jitter)))
	}
	arrival = max(arrival, d.last)
	if d.cfg.Reorder > 0 && d.rand.Float64() < d.cfg.Reorder {
		d.stats.Late++
		return arrival + d.cfg.ReorderDelay, Delivered
	}
	d.last = arrival
	return arrival, Delivered
}

// lose decides whether the next packet is lost. Bursts follow the Gilbert model, which has a state
// in which every packet is lost and one in which none is. The probabilities of the transitions
// follow from the fraction of losses and the mean length of a burst.
func (d *Direction) lose() bool {
	if d.cfg.Loss <= 0 {
		return false
	}
	length := max(d.cfg.Burst, 1)
	begin := d.cfg.Loss / (length * (1 - d.cfg.Loss))
	if length == 1 {
		return d.rand.Float64() < d.cfg.Loss
	}
	if d.burst {
		d.burst = d.rand.Float64() >= 1/length
	} else {
		d.burst = d.rand.Float64() < begin
	}
	return d.burst
}
