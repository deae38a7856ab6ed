package userstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// minAutotuneRTT is a round-trip time for which windows do not grow: firstShare is 2 Gbit/s then.
const minAutotuneRTT = 2 * time.Millisecond

// windowSizer decides how much of a peer's data a connection needs in flight: what its reader took
// within the last round-trip time, with room for that to double, as it does while the peer is in
// slow start (dynamic right-sizing, Fisk and Feng, 2001).
type windowSizer struct {
	since  time.Duration // when copied was 0
	copied int           // bytes that the reader has taken since
	last   int           // and in the round-trip time before
}

// add takes n bytes that the reader has taken, and returns how large the window should be at the
// least; 0 says nothing.
func (g *windowSizer) add(now, rtt time.Duration, n int) (want int) {
	g.copied += n
	elapsed := now - g.since
	if elapsed < rtt {
		return 0
	}
	taken := int(float64(g.copied) * float64(rtt) / float64(elapsed)) // of a pause in between only a part counts
	want = 2 * taken
	if taken > g.last+g.last/4 {
		want *= 2
	}
	g.last, g.copied, g.since = taken, 0, now
	return want
}

// consumed notes that the reader has taken n bytes, and lets the receive window grow.
func (c *Conn) consumed(n int) {
	if c.flow == nil || n == 0 {
		return
	}
	rtt := c.flow.clock.min()
	if rtt < minAutotuneRTT {
		return
	}
	if want := c.growth.add(c.queue.flows.now(), rtt, n); want > 0 {
		c.grow(receiving, func(have int) int { return min(want, 2*have) })
	}
}

// growSendBuffer is called when the send buffer is full. It reports whether there is more room now:
// where nearly all of it is in flight, it is the buffer that limits the connection.
func (c *Conn) growSendBuffer() bool {
	switch {
	case c.flow == nil:
		return false
	case c.flow.measureOnly:
		var info tcpip.TCPInfoOption
		if c.ep.GetSockOpt(&info) != nil {
			return false
		}
		return c.grow(sending, func(int) int { return 2 * int(info.SndCwnd) * c.mss })
	case c.notSent.unsent() >= c.notSent.limit():
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
	c.queue.reclaimer.start()
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
	c.notSent.sendBufferSize.Store(int64(n))
}

// reclaimAfter is how long a connection must have been idle to lose what it has got by grow.
const reclaimAfter = 5 * time.Second

// idleReclaimer takes memory back from idle connections. Its timer runs only while a connection has
// more than it began with.
type idleReclaimer struct {
	q       *Queue
	timer   tcpip.Timer // nil until there was need; the queue's mutex guards it
	running bool
}

// start has the timer run.
func (w *idleReclaimer) start() {
	w.q.mu.Lock()
	defer w.q.mu.Unlock()
	w.startLocked()
}

func (w *idleReclaimer) startLocked() {
	if w.running || w.q.closed {
		return
	}
	w.running = true
	if w.timer == nil {
		w.timer = w.q.flows.clock.AfterFunc(reclaimAfter, w.reclaim)
	} else {
		w.timer.Reset(reclaimAfter)
	}
}

func (w *idleReclaimer) stopLocked() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// reclaim takes back what idle connections have got, and goes on while others have any.
func (w *idleReclaimer) reclaim() {
	w.q.mu.Lock()
	w.running = false
	now := w.q.flows.now()
	var idle [directions][]*Conn
	busy := false
	for _, f := range w.q.flows.byID {
		for d, since := range [directions]time.Duration{receiving: f.lastHeard, sending: f.lastBusy(now)} {
			switch {
			case now-since >= reclaimAfter:
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
