package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/control"
	"ginnel/control/store"
)

const (
	storeTimeout = 10 * time.Second
	// retryStore is how long what time itself has brought about waits when the store did not take it.
	retryStore = 5 * time.Second
	// clockCheck is how often the time of day is looked at, which may be set.
	clockCheck = time.Minute
	// batchRoom is left free in a transaction for the writes of one more command.
	batchRoom = 16
	// Streams are told of changes at most so often, depending on how many there are.
	minInterval       = 10 * time.Millisecond
	maxInterval       = 100 * time.Millisecond
	intervalPerStream = 100 * time.Microsecond
)

var errClosed = fmt.Errorf("control server: %w", net.ErrClosed)

// Store is what a server keeps its state in: a [store.Bolt], or anything that behaves like it.
type Store interface {
	List(ctx context.Context, prefix string) ([]store.Entry, uint64, error)
	Transact(ctx context.Context, t store.Txn) (uint64, error)
}

// core owns the state. Its loop takes commands, stores what they have changed, and only then
// answers them; from time to time it tells the streams what is new, by a step that they follow.
type core struct {
	cfg     *Config
	store   Store
	log     *slog.Logger
	metrics *metrics
	lines   strangerLines
	plan    addressPlan
	cmdc    chan *command
	stopc   chan struct{}
	wg      sync.WaitGroup
	latest  atomic.Pointer[step]
	key     serverRecord // never changes
	// encoders has room for each whole map that is made at the same time.
	encoders chan struct{}
	probed   probedStreams

	// What follows belongs to the loop.
	st        *state
	streams   map[int64]*stream // of nodes that have one; commands change it as they change st
	alarms    schedule[int64]   // of nodes that are away or contested, by the clock that only goes on
	expiries  schedule[int64]   // of keys of nodes, by the time of day
	elections schedule[int64]   // of nodes whose election is to be stored, by the same
	deadlines schedule[string]  // of logins, by the clock that only goes on
	attended  map[string]attendance
	pending   pending
	seen      time.Time // of day, at the latest batch
	revision  uint64    // of the store, as it was last read or written
	stale     bool      // the store may have been changed by others, or by a write that seemed to fail
}

// pending is what streams have not been told yet.
type pending struct {
	ids       map[int64]bool
	people    bool // users have changed
	regroup   bool // so has what the policy says of nodes that have not
	derp      *control.DERPMap
	dns       *control.DNSConfig
	published time.Time // the latest step
	ended     []*stream // superseded: they end once they can see why
	primaries primaries
}

// command is a function that the loop runs on the state. It may run more than once, of which the
// last time counts.
type command struct {
	run   func(t *tx) error
	err   error
	wrote bool
	donec chan struct{} // nil: nobody waits
}

// change runs a command. When it returns nil, what was changed is stored.
func (c *core) change(ctx context.Context, run func(t *tx) error) error {
	cmd := &command{run: run, donec: make(chan struct{})}
	select {
	case c.cmdc <- cmd:
		<-cmd.donec // the loop has a time limit of its own
		return cmd.err
	case <-c.stopc:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run is the loop.
func (c *core) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case cmd := <-c.cmdc:
			c.batch(cmd)
		case <-timer.C:
			c.batch(nil)
		case <-c.stopc:
			return
		}
		timer.Reset(c.wakeIn())
	}
}

// wakeIn returns how long the loop can wait for a command.
func (c *core) wakeIn() time.Duration {
	m := c.cfg.moment()
	wait := clockCheck
	for _, at := range []time.Time{c.alarms.next(), c.elections.next(), c.deadlines.next(), c.publishAt()} {
		if !at.IsZero() {
			wait = min(wait, at.Sub(m.tick))
		}
	}
	if at := c.expiries.next(); !at.IsZero() {
		wait = min(wait, at.Sub(m.now))
	}
	return max(wait, 0)
}

// batch runs a command, those that are waiting behind it, and what is due, stores all of it at
// once, and answers.
func (c *core) batch(first *command) {
	b := &batch{core: c, moment: c.cfg.moment()}
	if b.now.Before(c.seen) {
		c.setBack(b.moment)
	}
	c.seen = b.now
	if c.stale {
		c.reload(b.moment)
	}
	if first != nil {
		b.take(first)
	}
	for b.room() && b.takeWaiting() {
	}
	for b.room() && b.takeDue() {
	}
	b.commit()
	c.lines.flush(b.tick)
	for _, t := range b.txs {
		c.settle(t)
	}
	if at := c.publishAt(); !at.IsZero() && !at.After(b.tick) {
		c.publish(b.moment)
	}
	for _, cmd := range b.cmds {
		if cmd.donec != nil {
			close(cmd.donec)
		}
	}
}

// settle follows up on a change that is stored.
func (c *core) settle(t *tx) {
	for _, f := range t.after {
		f()
	}
	for _, id := range t.changed {
		c.pending.ids[id] = true
		n := c.st.nodes[id]
		c.alarms.set(id, c.alarmOf(n))
		c.expiries.set(id, expiryOf(n))
		if s := c.streams[id]; n == nil && s != nil {
			delete(c.streams, id)
			close(s.endc)
		}
	}
	c.pending.people = c.pending.people || t.people
	c.pending.regroup = c.pending.regroup || t.regroup
}

// publishAt returns when the streams are to be told what is new, the zero time if nothing is.
func (c *core) publishAt() time.Time {
	if p := &c.pending; len(p.ids) == 0 && !p.people && !p.regroup && p.derp == nil && p.dns == nil {
		return time.Time{}
	}
	every := time.Duration(len(c.streams)) * intervalPerStream
	return c.pending.published.Add(min(max(every, minInterval), maxInterval))
}
