package userstack

import (
	"sync"
	"time"
)

// deadline is a time at which waits end. The zero value has none.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	donec   chan struct{} // closed when the deadline expires; nil until first used
	expired bool
	gen     int // number of calls of set: an expired timer of an earlier call is ignored
}

// wait returns a channel that is closed when the deadline expires.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.donec == nil {
		d.donec = make(chan struct{})
	}
	return d.donec
}

// hasExpired reports whether the deadline has expired.
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

// expire ends the waits, unless set was called after generation gen.
func (d *deadline) expire(gen int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gen == gen {
		d.expired = true
		close(d.donec)
	}
}

// deadlines are the deadlines of a conn, with the methods of net.Conn and net.PacketConn.
type deadlines struct{ readDeadline, writeDeadline deadline }

// SetDeadline implements net.Conn.
func (d *deadlines) SetDeadline(t time.Time) error {
	d.readDeadline.set(t)
	d.writeDeadline.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.readDeadline.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.writeDeadline.set(t)
	return nil
}
