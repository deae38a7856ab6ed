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

// messageSize is the size of a WireGuard message with a TCP segment of 64 bytes.
const messageSize = 64 + 52 + 32

// trips measures round trips: one client sends a packet to another, which returns it, and then the
// next.
func trips(ctx context.Context, s *Spec) (load.Figures, error) {
	b := &echoPair{message: bytes.Clone(body[:messageSize]), backc: make(chan uint64, 64)}
	p, err := connect(ctx, s.Region, 2, b.handle)
	if err != nil {
		return nil, err
	}
	defer p.close()
	b.from, b.to = p.clients[0], p.clients[1]
	if err := b.awaitFirst(ctx); err != nil {
		return nil, errors.Join(err, p.broken())
	}
	if _, err := b.repeat(ctx, s.Duration/4); err != nil {
		return nil, errors.Join(err, p.broken())
	}
	before, err := proc.CPU(s.PID)
	if err != nil {
		return nil, err
	}
	took, err := b.repeat(ctx, s.Duration)
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

// echoPair is two clients that exchange one packet.
type echoPair struct {
	from, to *client
	message  []byte
	number   uint64
	backc    chan uint64 // numbers of packets that came back
}

// awaitFirst sends packets until the first comes back, because the server may not know a client
// that has just logged in.
func (b *echoPair) awaitFirst(ctx context.Context) error {
	for begun := time.Now(); time.Since(begun) < tripLimit; {
		if _, err := b.trip(ctx, tripLimit/50); !errors.Is(err, errNoReturn) {
			return err
		}
	}
	return errNoReturn
}

// repeat makes round trips for the time d, at least one.
func (b *echoPair) repeat(ctx context.Context, d time.Duration) (took []time.Duration, err error) {
	for begun := time.Now(); len(took) == 0 || time.Since(begun) < d; {
		t, err := b.trip(ctx, tripLimit)
		if err != nil {
			return nil, err
		}
		took = append(took, t)
	}
	return took, nil
}

var errNoReturn = errors.New("derpload: packet did not come back")

// trip sends a packet and waits until it comes back. Earlier packets that come back late are
// ignored.
func (b *echoPair) trip(ctx context.Context, limit time.Duration) (took time.Duration, err error) {
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

// handle returns packets that the second client receives, and reports those that come back to the
// first.
func (b *echoPair) handle(number int, c *client, m relay.Message) error {
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
