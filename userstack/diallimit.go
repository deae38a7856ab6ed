package userstack

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// maxUnanswered dials to one address and port may wait for an answer at a time; further ones wait
// for their turn before they send a SYN. So a crowd does not overrun the queues on its way. TCP
// makes good for a lost SYN only after a second.
const maxUnanswered = 512

// dialLimiter are the dials under way. The zero value is ready for use.
type dialLimiter struct {
	mu sync.Mutex
	to map[netip.AddrPort]*dialTarget
}

// dialTarget has the dials to one address and port.
type dialTarget struct {
	dials    *dialLimiter
	addr     netip.AddrPort
	users    int           // dials that have a turn or wait for one; guarded by dials.mu
	turns    chan struct{} // has an item for each that has a turn
	answered atomic.Int64  // when the target last answered one of them, in Unix nanoseconds; 0: never
}

// begin waits for a turn, in the order of the calls. The caller calls end if there is no error.
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

// noteAnswer notes that the target has answered a dial, whatever the answer.
func (t *dialTarget) noteAnswer() { t.answered.Store(time.Now().UnixNano()) }

// isAnswering reports whether the target has answered a dial not long ago. Then an unanswered SYN
// most likely waits there, and the way to the target works.
func (t *dialTarget) isAnswering() bool {
	return time.Since(time.Unix(0, t.answered.Load())) < connectRetryDelay
}
