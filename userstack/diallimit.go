package userstack

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// maxUnanswered is how many dials to one address and port may wait for an answer at a time. Further
// dials wait before they send a SYN. Otherwise a burst of dials would overflow queues on the path,
// and TCP retransmits a lost SYN only after a second.
const maxUnanswered = 512

// dialLimiter bounds the dials in progress to each target. The zero value is ready for use.
type dialLimiter struct {
	mu sync.Mutex
	to map[netip.AddrPort]*dialTarget
}

// dialTarget is an address and port with the dials in progress to it.
type dialTarget struct {
	dials    *dialLimiter
	addr     netip.AddrPort
	users    int           // dials in progress or waiting; guarded by dials.mu
	turns    chan struct{} // holds one item for each dial in progress
	answered atomic.Int64  // when the target last answered a dial, in Unix nanoseconds; 0 means never
}

// begin waits until a dial may start, in the order of the calls. Unless it fails, the caller must
// call end.
func (d *dialLimiter) begin(ctx context.Context, closec <-chan struct{}, to netip.AddrPort) (*dialTarget, error) {
	t := d.join(to)
	select {
	case t.turns <- struct{}{}:
		return t, nil
	default:
	}
	var err error
	select {
	case t.turns <- struct{}{}:
		return t, nil
	case <-ctx.Done():
		err = dialError(ctx.Err())
	case <-closec:
		err = net.ErrClosed
	}
	t.leave()
	return nil, err
}

func (t *dialTarget) end() {
	<-t.turns
	t.leave()
}

func (d *dialLimiter) join(to netip.AddrPort) *dialTarget {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.to[to]
	if t == nil {
		if d.to == nil {
			d.to = make(map[netip.AddrPort]*dialTarget)
		}
		t = &dialTarget{dials: d, addr: to, turns: make(chan struct{}, maxUnanswered)}
		d.to[to] = t
	}
	t.users++
	return t
}

func (t *dialTarget) leave() {
	t.dials.mu.Lock()
	defer t.dials.mu.Unlock()
	if t.users--; t.users == 0 {
		delete(t.dials.to, t.addr)
	}
}

// noteAnswer notes that the target has accepted or refused a dial just now.
func (t *dialTarget) noteAnswer() { t.answered.Store(time.Now().UnixNano()) }

// isAnswering reports whether the target has answered a dial recently. Then the path works, and an
// unanswered SYN most likely waits in the backlog of the target.
func (t *dialTarget) isAnswering() bool {
	return time.Since(time.Unix(0, t.answered.Load())) < connectRetryDelay
}
