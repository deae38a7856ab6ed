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
)

const (
	// clockCheck is how long the loop sleeps at most, so that it notices when the wall clock is
	// set.
	clockCheck = time.Minute
	// batchRoom operations of a store transaction are left free for the writes of one more command.
	batchRoom = 16
	// The interval between two steps grows with the number of streams, within these limits, because
	// each step costs work for each stream.
	minInterval       = 10 * time.Millisecond
	maxInterval       = 100 * time.Millisecond
	intervalPerStream = 100 * time.Microsecond
)

var errClosed = fmt.Errorf("control server: %w", net.ErrClosed)

// core owns the state. Its loop takes commands, stores what they changed, and only then answers
// them. At intervals it publishes a step that the map streams follow.
type core struct {
	cfg     *Config
	log     *slog.Logger
	metrics *metrics
	limited limitedLog
	plan    addressPlan
	cmdc    chan *command
	stopc   chan struct{}
	wg      sync.WaitGroup
	latest  atomic.Pointer[step]
	key     serverRecord // never changes
	probed  probedStreams
	// encoders limits how many full maps are encoded at the same time.
	encoders chan struct{}

	// The loop owns the fields below.
	st         *state
	storage    storage
	timers     timers
	streams    map[int64]*stream // by node; transactions change it together with st
	loginWaits map[string]loginWait
	pending    pending
	seen       time.Time // wall clock at the latest batch
}

// pending are the changes since the latest step.
type pending struct {
	ids          map[int64]bool // of changed nodes
	usersChanged bool
	rulesChanged bool // the policy changed, or the users that it names
	derp         *control.DERPMap
	dns          *control.DNSConfig
	published    time.Time // time of the latest step
	ended        []*stream // streams that another one replaced; they end after the step that shows why
	primaries    primaries
}

// command is a function that the loop runs on the state. It may run more than once; the last run
// counts.
type command struct {
	run   func(t *tx) error
	err   error
	wrote bool
	donec chan struct{} // nil if nobody waits for the result
}

// change runs a command. If it returns nil, the changes are stored.
func (c *core) change(ctx context.Context, run func(t *tx) error) error {
	cmd := &command{run: run, donec: make(chan struct{})}
	select {
	case c.cmdc <- cmd:
		<-cmd.donec // the loop bounds the time of a command
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

// wakeIn returns how long the loop may wait for a command before something else is due.
func (c *core) wakeIn() time.Duration {
	m := c.cfg.moment()
	wait := clockCheck
	if at := c.publishAt(); !at.IsZero() {
		wait = min(wait, at.Sub(m.mono))
	}
	return max(min(wait, c.timers.wait(m)), 0)
}

// batch runs a command, the commands that wait behind it, and the events that are due. It stores
// their changes in one transaction and then answers the commands.
func (c *core) batch(first *command) {
	b := &batch{core: c, moment: c.cfg.moment()}
	if b.now.Before(c.seen) {
		c.clockSetBack(b.moment)
	}
	c.seen = b.now
	if c.storage.stale {
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
	c.limited.flush(b.mono)
	for _, t := range b.txs {
		c.committed(t)
	}
	if at := c.publishAt(); !at.IsZero() && !at.After(b.mono) {
		c.publish(b.moment)
	}
	for _, cmd := range b.cmds {
		if cmd.donec != nil {
			close(cmd.donec)
		}
	}
}

// committed follows up on the changes of a transaction once they are final: it schedules timers and
// marks what the next step has to show.
func (c *core) committed(t *tx) {
	for _, f := range t.after {
		f()
	}
	for _, id := range t.changed {
		c.pending.ids[id] = true
		n := c.st.nodes[id]
		c.timers.nodes.set(id, c.nodeDeadline(n))
		c.timers.expiries.set(id, expiryOf(n))
		if s := c.streams[id]; n == nil && s != nil {
			delete(c.streams, id)
			close(s.endc)
		}
	}
	c.pending.usersChanged = c.pending.usersChanged || t.usersChanged
	c.pending.rulesChanged = c.pending.rulesChanged || t.rulesChanged
}

// publishAt returns when the next step is due. The zero time means that nothing has changed.
func (c *core) publishAt() time.Time {
	if p := &c.pending; len(p.ids) == 0 && !p.usersChanged && !p.rulesChanged && p.derp == nil && p.dns == nil {
		return time.Time{}
	}
	every := time.Duration(len(c.streams)) * intervalPerStream
	return c.pending.published.Add(min(max(every, minInterval), maxInterval))
}
