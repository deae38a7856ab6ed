package node

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// A peer whose policy does not let a connection in says so by a TSMP rejection, each time a SYN
// comes. The first ones may be too early: a peer that learns of this node only now refuses at first
// and lets in the next SYN.

// rejectionPatience is how long a dial goes on although the peer rejects it. TCP repeats its SYN
// after 1 and 3 seconds.
const rejectionPatience = 2 * time.Second

// errRejected ends a dial that the peer goes on rejecting.
var errRejected = errors.New("rejected by the peer's policy")

// rejections passes what peers say on to the dials in progress.
type rejections struct {
	mu    sync.Mutex
	dials map[netip.AddrPort]map[*rejectableDial]struct{}
}

// rejectableDial is a TCP dial that a peer may reject.
type rejectableDial struct {
	to     netip.AddrPort
	began  time.Time
	giveUp context.CancelCauseFunc

	rejected bool // the latest word of the peer; guarded by rejections.mu
}

// begin lists a dial until end is called for it.
func (r *rejections) begin(to netip.AddrPort, giveUp context.CancelCauseFunc) *rejectableDial {
	d := &rejectableDial{to: to, began: time.Now(), giveUp: giveUp}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dials == nil {
		r.dials = make(map[netip.AddrPort]map[*rejectableDial]struct{})
	}
	if r.dials[to] == nil {
		r.dials[to] = make(map[*rejectableDial]struct{})
	}
	r.dials[to][d] = struct{}{}
	return d
}

// end returns err, or what a peer's rejection makes of it.
func (r *rejections) end(d *rejectableDial, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.dials[d.to], d)
	if len(r.dials[d.to]) == 0 {
		delete(r.dials, d.to)
	}
	if err != nil && d.rejected && (errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, context.Canceled)) {
		return &rejectedError{err}
	}
	return err
}

// hear is called by the stack for a rejection.
func (r *rejections) hear(to netip.AddrPort) {
	for _, giveUp := range r.note(time.Now(), to) {
		giveUp(errRejected)
	}
}

// note remembers a rejection, and returns how to end the dials that have been rejected for long
// enough.
func (r *rejections) note(now time.Time, to netip.AddrPort) (ends []context.CancelCauseFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for d := range r.dials[to] {
		d.rejected = true
		if now.Sub(d.began) >= rejectionPatience {
			ends = append(ends, d.giveUp)
		}
	}
	return ends
}

// rejectedError is a dial that the peer has rejected. It is EACCES, as a socket of the system
// reports a firewall.
type rejectedError struct{ cause error }

func (e *rejectedError) Error() string { return errRejected.Error() }
func (e *rejectedError) Unwrap() error { return syscall.EACCES }

func isRejected(err error) bool {
	_, ok := errors.AsType[*rejectedError](err)
	return ok
}
