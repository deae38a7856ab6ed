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
	fewestFetches = 3
	mostFetches   = 21
	// fetchTime is how long fetches are repeated, unless there are too few or enough of them.
	fetchTime = 2 * time.Second
)

// transfer moves bytes over a new connection. The time is that from the first packet of the connection until all have
// arrived and been compared. What is not over at the limit counts with the limit.
func transfer(ctx context.Context, s *Spec) (Figures, error) {
	arrived, took, err := s.move(ctx)
	if err != nil {
		return nil, err
	}
	return Figures{"s": took.Seconds(), "mb": float64(arrived) / 1e6, "mbps": float64(arrived) * 8 / 1e6 / took.Seconds()}, nil
}

// fetches repeats a transfer, each over a connection of its own.
func fetches(ctx context.Context, s *Spec) (Figures, error) {
	var all []time.Duration
	unfinished := 0
	for start := time.Now(); len(all) < fewestFetches || time.Since(start) < fetchTime && len(all) < mostFetches; {
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

// move is one transfer. It is an error if the connection breaks, and none if it is slow.
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

// receive takes n bytes of the pattern.
func receive(c net.Conn, n uint64) (arrived uint64, err error) {
	b := make([]byte, maxPiece)
	for arrived < n {
		m, err := c.Read(b[:min(maxPiece, n-arrived)])
		if !matches(b[:m], arrived) {
			return arrived, errSpoilt
		}
		arrived += uint64(m)
		if err != nil && arrived < n {
			return arrived, fmt.Errorf("receiving: %w", err)
		}
	}
	return arrived, nil
}

// store sends n bytes of the pattern and waits until the service says that they are there.
func store(c net.Conn, n uint64) (arrived uint64, err error) {
	var wg sync.WaitGroup
	wg.Go(func() { sendPattern(c, n) }) // what fails here fails below too
	defer wg.Wait()
	defer c.Close() // for the sender
	for arrived < n {
		var count [countSize]byte
		if _, err := io.ReadFull(c, count[:]); err != nil {
			return arrived, fmt.Errorf("waiting for what has arrived: %w", err)
		}
		if arrived = binary.BigEndian.Uint64(count[:]); arrived == spoilt {
			return 0, errSpoilt
		}
	}
	return arrived, nil
}
