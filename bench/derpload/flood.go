package derpload

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/bench/load"
	"ginnel/bench/proc"
	"ginnel/key"
	"ginnel/relay"
)

const (
	// packetSize is the size of a WireGuard message with a packet of 1,280 bytes, the MTU of a
	// mesh.
	packetSize = 1280 + 32
	// window bounds the packets of a pair that are in flight: the length of derper's queue for a
	// client. With more, derper drops packets, and the comparison would be of how fast servers
	// drop.
	window = 32
	// inFlight bounds the packets of all pairs that are in flight, as long as each pair has half a
	// window. With more, the thousands of clients here read so late that servers consider them
	// dead.
	inFlight = 16000
	// lostAfter is when packets that have not arrived are counted as lost.
	lostAfter = 200 * time.Millisecond
)

// body is the content of each packet, whose first 8 bytes are replaced by its number.
var body = makeBody()

func makeBody() []byte {
	b := make([]byte, packetSize)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// pair is a sending client and a receiving client.
type pair struct {
	from     *relay.Client
	to       key.NodePublic
	batch    int
	window   int64
	arrived  atomic.Int64
	lost     atomic.Int64
	arrivedc chan struct{} // holds an item if packets have arrived
}

// flood makes each pair send as fast as it can without overrunning the server's queues.
func flood(ctx context.Context, s *Spec) (load.Figures, error) {
	pairs := make([]*pair, s.Pairs)
	for i := range pairs {
		pairs[i] = &pair{batch: s.Batch, window: int64(min(window, max(window/2, inFlight/s.Pairs))),
			arrivedc: make(chan struct{}, 1)}
	}
	p, err := connect(ctx, s.Region, 2*s.Pairs,
		func(n int, _ *client, m relay.Message) error { return pairs[n/2].arrive(n, m) })
	if err != nil {
		return nil, err
	}
	defer p.close()
	stop, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i, pr := range pairs {
		pr.from, pr.to = p.clients[2*i].Client, p.clients[2*i+1].key
		wg.Go(func() { p.note(pr.send(stop)) })
	}
	if err := awaitFirst(ctx, pairs); err != nil {
		return nil, errors.Join(err, p.broken())
	}
	f, err := measureFlood(ctx, s, pairs)
	return f, errors.Join(err, p.broken())
}

// awaitFirst waits until a packet of every pair has arrived. Packets to a client that has just
// logged in may be lost.
func awaitFirst(ctx context.Context, pairs []*pair) error {
	ctx, cancel := context.WithTimeout(ctx, tripLimit)
	defer cancel()
	for i, p := range pairs {
		for p.arrived.Load() == 0 {
			if err := wait(ctx, time.Millisecond); err != nil {
				return fmt.Errorf("waiting for the first packet of pair %d: %w", i+1, err)
			}
		}
	}
	return nil
}

// measureFlood measures what arrives after a quarter of the duration for the flood to build up.
func measureFlood(ctx context.Context, s *Spec, pairs []*pair) (load.Figures, error) {
	if err := wait(ctx, s.Duration/4); err != nil {
		return nil, err
	}
	cpu, err := proc.CPU(s.PID)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	arrived, lost := totals(pairs)
	if err := wait(ctx, s.Duration); err != nil {
		return nil, err
	}
	took := time.Since(start).Seconds()
	later, err := proc.CPU(s.PID)
	if err != nil {
		return nil, err
	}
	arrivedLater, lostLater := totals(pairs)
	n, gone := float64(arrivedLater-arrived), float64(lostLater-lost)
	if n == 0 {
		return nil, fmt.Errorf("no packet arrived in %v", s.Duration)
	}
	f := load.Figures{"pps": n / took, "mbps": n * packetSize * 8 / 1e6 / took, "lost_percent": 100 * gone / (n + gone)}
	if used := (later - cpu).Seconds(); used > 0 {
		f["pps_per_core"] = n / used
	}
	return f, nil
}

func totals(pairs []*pair) (arrived, lost int64) {
	for _, p := range pairs {
		arrived, lost = arrived+p.arrived.Load(), lost+p.lost.Load()
	}
	return arrived, lost
}

// send sends batches as long as the window has room for them.
func (p *pair) send(ctx context.Context) error {
	batch := make([][]byte, p.batch)
	for i := range batch {
		batch[i] = bytes.Clone(body)
	}
	timer := time.NewTimer(lostAfter)
	defer timer.Stop()
	for sent := int64(0); ctx.Err() == nil; {
		if sent-p.arrived.Load()-p.lost.Load() > p.window-int64(p.batch) {
			p.await(ctx, timer, sent)
			continue
		}
		for _, b := range batch {
			binary.BigEndian.PutUint64(b, uint64(sent))
			sent++
		}
		if err := p.from.Send(p.to, batch); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
	return nil
}

// await waits until packets have arrived, or counts those in flight as lost after lostAfter.
func (p *pair) await(ctx context.Context, timer *time.Timer, sent int64) {
	timer.Reset(lostAfter)
	select {
	case <-p.arrivedc:
	case <-ctx.Done():
	case <-timer.C:
		p.lost.Store(sent - p.arrived.Load())
	}
}

// arrive counts a packet. Packets of a pair arrive at its second client.
func (p *pair) arrive(number int, m relay.Message) error {
	if m.Kind != relay.MessagePacket {
		return nil
	}
	if number%2 == 0 || len(m.Data) != packetSize || !bytes.Equal(m.Data[8:], body[8:]) {
		return errors.New("received a packet that was not sent")
	}
	p.arrived.Add(1)
	select {
	case p.arrivedc <- struct{}{}:
	default:
	}
	return nil
}
