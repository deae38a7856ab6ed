package userstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// minAutotuneRTT is the shortest round-trip time for which windows grow. Below it, firstShare
// suffices for 2 Gbit/s.
const minAutotuneRTT = 2 * time.Millisecond

// windowSizer estimates how much data of the peer a connection needs in flight: what its reader
// consumed within the last round-trip time, with room for that to double, as it does while the peer
// is in slow start (dynamic right-sizing, Fisk and Feng, 2001).
type windowSizer struct {
	since  time.Duration // start of the current measurement
	copied int           // bytes that the reader has consumed since then
	last   int           // bytes per round-trip time in the measurement before
}

// add notes that the reader has consumed n bytes. It returns the least size that the window should
// have, or 0 while the measurement goes on.
func (g *windowSizer) add(now, rtt time.Duration, n int) (want int) {
	g.copied += n
	elapsed := now - g.since
	if elapsed < rtt {
		return 0
	}
	perRTT := int(float64(g.copied) * float64(rtt) / float64(elapsed)) // elapsed includes pauses of the reader
	want = 2 * perRTT
	if perRTT > g.last+g.last/4 {
		want *= 2
	}
	g.last, g.copied, g.since = perRTT, 0, now
	return want
}

// consumed notes that the reader has consumed n bytes, and grows the receive window.
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

// growSendBuffer is called when the send buffer is full, and reports whether it has become larger.
// It grows only if nearly all of its content is in flight, because only then the buffer limits the
// connection.
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

// grow enlarges a buffer of the connection to what wanted returns for the present size, as far as
// the memory allows. It reports whether the buffer has become larger.
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

// shrink sets a buffer of an idle connection back to its first size.
func (c *Conn) shrink(d direction) {
	c.share.mu.Lock()
	defer c.share.mu.Unlock()
	if c.memory.shrink(c.share, d) {
		c.applySize(d)
	}
}

// applySize tells gVisor the new size of a buffer. The caller holds share.mu.
func (c *Conn) applySize(d direction) {
	n := c.share.size[d]
	if d == receiving {
		setReceiveBuffer(c.ep, n)
		return
	}
	setSendBuffer(c.ep, n)
	c.notSent.sendBufferSize.Store(int64(n))
}

// reclaimAfter is how long a direction must be idle before its buffer is shrunk.
const reclaimAfter = 5 * time.Second

// idleReclaimer shrinks the buffers of idle connections. Its timer starts when a connection grows,
// and stops when all connections are idle.
type idleReclaimer struct {
	q       *Queue
	timer   tcpip.Timer // nil until first needed; guarded by the queue's mutex
	running bool
}

// start starts the timer.
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

// reclaim shrinks the buffers of idle connections. It restarts the timer while others are in use.
func (w *idleReclaimer) reclaim() {
	w.q.mu.Lock()
	w.running = false
	now := w.q.flows.now()
	var idle [directions][]*Conn
	busy := false
	for _, f := range w.q.flows.byID {
		for d, since := range [directions]time.Duration{receiving: f.lastUse.received, sending: f.lastBusy(now)} {
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
