package userstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// shortRTT is a round-trip time for which windows do not grow: firstShare is 2 Gbit/s then.
const shortRTT = 2 * time.Millisecond

// growth decides how much of a peer's data a connection needs in flight: what its reader took
// within the last round-trip time, with room for that to double, as it does while the peer is in
// slow start (dynamic right-sizing, Fisk and Feng, 2001).
type growth struct {
	since time.Duration // when copied was 0
	copy  int           // bytes that the reader has taken since
	last  int           // and in the round-trip time before
}

// read takes n bytes that the reader has taken, and returns how large the window should be at the
// least; 0 says nothing.
func (g *growth) read(now, rtt time.Duration, n int) (want int) {
	g.copy += n
	elapsed := now - g.since
	if elapsed < rtt {
		return 0
	}
	taken := int(float64(g.copy) * float64(rtt) / float64(elapsed)) // of a pause in between only a part counts
	want = 2 * taken
	if taken > g.last+g.last/4 {
		want *= 2
	}
	g.last, g.copy, g.since = taken, 0, now
	return want
}

// consumed notes that the reader has taken n bytes, and lets the receive window grow.
func (c *Conn) consumed(n int) {
	if c.flow == nil || n == 0 {
		return
	}
	rtt := c.flow.clock.min()
	if rtt < shortRTT {
		return
	}
	if want := c.growth.read(c.queue.flows.now(), rtt, n); want > 0 {
		c.grow(receiving, func(have int) int { return min(want, 2*have) })
	}
}

// growSending is called when the send buffer is full. It reports whether there is more room now:
// where nearly all of it is in flight, it is the buffer that limits the connection.
func (c *Conn) growSending() bool {
	switch {
	case c.flow == nil:
		return false
	case c.flow.passive:
		var info tcpip.TCPInfoOption
		if c.ep.GetSockOpt(&info) != nil {
			return false
		}
		return c.grow(sending, func(int) int { return 2 * int(info.SndCwnd) * c.mss })
	case c.pending.unsent() >= c.pending.limit():
		return false
	}
	return c.grow(sending, func(have int) int { return 2 * have })
}

// grow lets the connection buffer as much as wanted says, given what it may buffer now, and reports
// whether that is more than before.
func (c *Conn) grow(d direction, wanted func(have int) int) bool {
	c.share.mu.Lock()
	defer c.share.mu.Unlock()
	have := c.share.size[d]
	if c.memory.grow(c.share, d, wanted(have)-have) == 0 {
		return false
	}
	c.applySize(d)
	c.queue.idle.watch()
	return true
}

// shrink takes back what an idle connection has got by grow.
func (c *Conn) shrink(d direction) {
	c.share.mu.Lock()
	defer c.share.mu.Unlock()
	if c.memory.shrink(c.share, d) {
		c.applySize(d)
	}
}

// applySize tells gVisor of a size that has changed. The caller holds share.mu.
func (c *Conn) applySize(d direction) {
	n := c.share.size[d]
	if d == receiving {
		setReceiveBuffer(c.ep, n)
		return
	}
	setSendBuffer(c.ep, n)
	c.pending.most.Store(int64(n))
}

// idleShare is how long a connection must have been idle to lose what it has got by grow.
const idleShare = 5 * time.Second

// idleWatch takes memory back from idle connections. Its timer runs only while a connection has
// more than it began with.
type idleWatch struct {
	q     *Queue
	timer tcpip.Timer // nil until there was need; the queue's mutex guards it
	runs  bool
}

// watch has the timer run.
func (w *idleWatch) watch() {
	w.q.mu.Lock()
	defer w.q.mu.Unlock()
	w.startLocked()
}

func (w *idleWatch) startLocked() {
	if w.runs || w.q.closed {
		return
	}
	w.runs = true
	if w.timer == nil {
		w.timer = w.q.flows.clock.AfterFunc(idleShare, w.look)
	} else {
		w.timer.Reset(idleShare)
	}
}

func (w *idleWatch) stopLocked() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// look takes back what idle connections have got, and goes on while others have any.
func (w *idleWatch) look() {
	w.q.mu.Lock()
	w.runs = false
	now := w.q.flows.now()
	var idle [directions][]*Conn
	busy := false
	for _, f := range w.q.flows.byID {
		for d, since := range [directions]time.Duration{receiving: f.heard, sending: f.talked(now)} {
			switch {
			case now-since >= idleShare:
				idle[d] = append(idle[d], f.conn)
			default:
				busy = true
			}
		}
	}
	if busy {
		w.startLocked()
	}
	w.q.mu.Unlock()
	for d, conns := range idle {
		for _, c := range conns {
			c.shrink(direction(d))
		}
	}
}
