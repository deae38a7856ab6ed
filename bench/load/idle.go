package load

import (
	"context"
	"fmt"
	"net"
	"time"
)

// idleAtLeast is the minimum idle time, because some programs release memory only after some
// seconds.
const idleAtLeast = 4 * time.Second

// idle opens connections, leaves them idle, and then checks that they still work.
func idle(ctx context.Context, s *Spec) (Figures, error) {
	before, err := costsOf(s.PIDs)
	if err != nil {
		return nil, err
	}
	var all []net.Conn
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	for i := range s.Conns {
		c, err := dialEcho(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("opening connection %d: %w", i+1, err)
		}
		all = append(all, c)
		defer bind(ctx, c)()
		if err := trip(c, uint64(i)); err != nil {
			return nil, fmt.Errorf("using connection %d: %w", i+1, err)
		}
	}
	if err := wait(ctx, max(s.Duration, idleAtLeast)); err != nil {
		return nil, err
	}
	after, err := costsOf(s.PIDs)
	if err != nil {
		return nil, err
	}
	for i, c := range all {
		c.SetDeadline(time.Now().Add(handshakeLimit)) // opening all of them may have used up the deadline
		if err := trip(c, uint64(i)); err != nil {
			return nil, fmt.Errorf("using connection %d again: %w", i+1, err)
		}
	}
	if len(s.PIDs) == 0 {
		return nil, nil
	}
	return Figures{"kb_per_conn": float64(after.now-before.now) / 1e3 / float64(s.Conns)}, nil
}
