package derpload

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"time"

	"ginnel/bench/load"
	"ginnel/bench/proc"
	"ginnel/relay"
)

// tripLimit bounds one round trip.
const tripLimit = 5 * time.Second

// messageSize is that of a WireGuard message with 64 bytes in a TCP segment.
const messageSize = 64 + 52 + 32

// trips sends a packet from one client to another, which sends it back, and then the next.
func trips(ctx context.Context, s *Spec) (load.Figures, error) {
	b := &ball{message: bytes.Clone(body[:messageSize]), backc: make(chan uint64, 64)}
	p, err := connect(ctx, s.Region, 2, b.bounce)
	if err != nil {
		return nil, err
	}
	defer p.close()
	b.from, b.to = p.clients[0], p.clients[1]
	if err := b.serve(ctx); err != nil {
		return nil, errors.Join(err, p.broken())
	}
	if _, err := b.play(ctx, s.Duration/4); err != nil {
		return nil, errors.Join(err, p.broken())
	}
	before, err := proc.CPU(s.PID)
	if err != nil {
		return nil, err
	}
	took, err := b.play(ctx, s.Duration)
	if err != nil {
		return nil, errors.Join(err, p.broken())
	}
	after, err := proc.CPU(s.PID)
	if err != nil {
		return nil, err
	}
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	return load.Figures{
		"p50_us": us(load.Percentile(took, 50)),
		"p99_us": us(load.Percentile(took, 99)),
		"cpu_us": us(after-before) / float64(len(took)),
	}, nil
}

// ball is the packet that goes to and fro.
type ball struct {
	from, to *client
	message  []byte
	number   uint64
	backc    chan uint64 // the number of a packet that came back
}

// serve sends the ball until it has come back once: a client that has just logged in may not be
// known to the others yet.
func (b *ball) serve(ctx context.Context) error {
	for begun := time.Now(); time.Since(begun) < tripLimit; {
		if _, err := b.trip(ctx, tripLimit/50); !errors.Is(err, errNoReturn) {
			return err
		}
	}
	return errNoReturn
}

// play makes round trips for a time, one at least.
func (b *ball) play(ctx context.Context, d time.Duration) (took []time.Duration, err error) {
	for begun := time.Now(); len(took) == 0 || time.Since(begun) < d; {
		t, err := b.trip(ctx, tripLimit)
		if err != nil {
			return nil, err
		}
		took = append(took, t)
	}
	return took, nil
}

var errNoReturn = errors.New("derpload: a packet did not come back")

// trip sends the ball and waits until it is back. One that comes back late is not taken for the
// next.
func (b *ball) trip(ctx context.Context, limit time.Duration) (took time.Duration, err error) {
	b.number++
	binary.BigEndian.PutUint64(b.message, b.number)
	sent := time.Now()
	if err := b.from.Send(b.to.key, [][]byte{b.message}); err != nil {
		return 0, err
	}
	over := time.After(limit)
	for {
		select {
		case got := <-b.backc:
			if got == b.number {
				return time.Since(sent), nil
			}
		case <-over:
			return 0, errNoReturn
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// bounce sends back what comes to the second client, and says what came back to the first.
func (b *ball) bounce(number int, c *client, m relay.Message) error {
	if m.Kind != relay.MessagePacket {
		return nil
	}
	if len(m.Data) != messageSize || !bytes.Equal(m.Data[8:], body[8:messageSize]) {
		return errors.New("a packet came that was not sent")
	}
	if number == 1 {
		return c.Send(m.Peer, [][]byte{m.Data})
	}
	b.backc <- binary.BigEndian.Uint64(m.Data)
	return nil
}
