package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	minFetches = 3 // fewer if they take longer than the limit of one
	maxFetches = 21
	// fetchTime is how long fetches are repeated, within the limits above.
	fetchTime = 2 * time.Second
)

// transfer moves bytes over a new connection. The time runs from the dial until all bytes have
// arrived and been compared. A transfer that reaches the limit is stopped; its figures are the
// limit and what has arrived.
func transfer(ctx context.Context, s *Spec) (Figures, error) {
	arrived, took, err := s.move(ctx)
	if err != nil {
		return nil, err
	}
	mb, seconds := float64(arrived)/1e6, took.Seconds()
	return Figures{"s": seconds, "mb": mb, "mbps": float64(arrived) * 8 / 1e6 / seconds}, nil
}

// fetches repeats a transfer, each time over a new connection.
func fetches(ctx context.Context, s *Spec) (Figures, error) {
	var all []time.Duration
	unfinished := 0
	for start := time.Now(); len(all) < maxFetches; {
		elapsed := time.Since(start)
		if elapsed > s.Duration || elapsed > fetchTime && len(all) >= minFetches {
			break
		}
		arrived, took, err := s.move(ctx)
		if err != nil {
			return nil, err
		}
		if arrived < uint64(s.Bytes) {
			unfinished++
		}
		all = append(all, took)
	}
	return Figures{"p50_ms": milliseconds(Percentile(all, 50)), "unfinished": float64(unfinished)}, nil
}

// move makes one transfer. A broken connection is an error, a slow one is not.
func (s *Spec) move(ctx context.Context) (arrived uint64, took time.Duration, err error) {
	start := time.Now()
	kind, run := byte(wantFetch), receive
	if s.Direction == Up {
		kind, run = wantStore, store
	}
	limited, cancel := context.WithDeadline(ctx, start.Add(s.Duration))
	defer cancel()
	c, err := s.Proxy.open(limited, s.Target, kind, s.Bytes)
	if err == nil {
		stop := bind(limited, c)
		arrived, err = run(c, uint64(s.Bytes))
		stop()
		c.Close()
	}
	took = time.Since(start)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return arrived, took, ctx.Err()
	}
	return arrived, took, err
}

// receive reads n bytes and compares them with the pattern.
func receive(c net.Conn, n uint64) (arrived uint64, err error) {
	b := make([]byte, maxPiece)
	for arrived < n {
		m, err := c.Read(b[:min(maxPiece, n-arrived)])
		if !matches(b[:m], arrived) {
			return arrived, errCorrupt
		}
		arrived += uint64(m)
		if err != nil && arrived < n {
			return arrived, fmt.Errorf("receiving: %w", err)
		}
	}
	return arrived, nil
}

// store sends n bytes of the pattern and waits until the service has confirmed them.
func store(c net.Conn, n uint64) (arrived uint64, err error) {
	var wg sync.WaitGroup
	wg.Go(func() { sendPattern(c, n) }) // an error here also fails the reads below
	defer wg.Wait()
	defer c.Close() // ends the sender
	for arrived < n {
		var count [countSize]byte
		if _, err := io.ReadFull(c, count[:]); err != nil {
			return arrived, fmt.Errorf("waiting for a confirmation: %w", err)
		}
		if arrived = binary.BigEndian.Uint64(count[:]); arrived == corrupt {
			return 0, errCorrupt
		}
	}
	return arrived, nil
}
