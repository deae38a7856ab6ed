package userstack

import (
	"sync"
	"time"
)

// deadline is a time after which a wait ends. The zero value never does.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	donec   chan struct{} // closed once the deadline has passed; nil: never asked for
	expired bool
	gen     int // counts calls of set, so that a late timer of an earlier one does nothing
}

// wait returns a channel that is closed when the deadline passes.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.donec == nil {
		d.donec = make(chan struct{})
	}
	return d.donec
}

// hasExpired reports whether the deadline is over.
func (d *deadline) hasExpired() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

// set moves the deadline; the zero time removes it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.expired || d.donec == nil {
		d.donec = make(chan struct{})
	}
	d.expired = false
	d.gen++
	if t.IsZero() {
		return
	}
	if wait := time.Until(t); wait > 0 {
		gen := d.gen
		d.timer = time.AfterFunc(wait, func() { d.expire(gen) })
		return
	}
	d.expired = true
	close(d.donec)
}

// expire ends the waits, unless set was called since.
func (d *deadline) expire(gen int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gen == gen {
		d.expired = true
		close(d.donec)
	}
}

// deadlines are the two of a conn and the methods by which net.Conn and net.PacketConn move them.
type deadlines struct{ readDeadline, writeDeadline deadline }

// SetDeadline moves both deadlines.
func (d *deadlines) SetDeadline(t time.Time) error {
	d.readDeadline.set(t)
	d.writeDeadline.set(t)
	return nil
}

// SetReadDeadline ends reads at t; the zero time means never.
func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.readDeadline.set(t)
	return nil
}

// SetWriteDeadline ends writes at t; the zero time means never.
func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.writeDeadline.set(t)
	return nil
}
