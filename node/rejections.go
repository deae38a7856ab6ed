package node

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// A peer whose policy does not let a connection in answers each SYN with a TSMP rejection. The
// first ones may not count: a peer that is just learning of this node rejects one SYN and accepts
// the next.

// rejectionPatience is how long a dial continues although the peer rejects it. TCP repeats its SYN
// after 1 and 3 seconds.
const rejectionPatience = 2 * time.Second

// errRejected cancels a dial that the peer rejects again.
var errRejected = errors.New("rejected by the peer's policy")

// rejections tells dials in progress that the peer has rejected them.
type rejections struct {
	mu    sync.Mutex
	dials map[netip.AddrPort]map[*rejectableDial]struct{}
}

// rejectableDial is a TCP dial that a peer may reject.
type rejectableDial struct {
	to     netip.AddrPort
	began  time.Time
	giveUp context.CancelCauseFunc

	rejected bool // guarded by rejections.mu
}

// begin lists a dial until end. giveUp cancels it.
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

// end returns the error of the dial: a rejectedError in place of err if the peer has rejected it.
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

// hear takes a rejection from the stack.
func (r *rejections) hear(to netip.AddrPort) {
	for _, giveUp := range r.note(time.Now(), to) {
		giveUp(errRejected)
	}
}

// note marks the dials to an address as rejected, and returns the cancel functions of those that
// have lasted for rejectionPatience.
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

// rejectedError is the error of a dial that the peer has rejected. It is EACCES, the errno by which
// a socket of the system reports a firewall.
type rejectedError struct{ cause error }

func (e *rejectedError) Error() string { return errRejected.Error() }
func (e *rejectedError) Unwrap() error { return syscall.EACCES }

func isRejected(err error) bool {
	_, ok := errors.AsType[*rejectedError](err)
	return ok
}
