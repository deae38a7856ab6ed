package userstack

import "sync/atomic"

// notSentLimit is how many bytes of a connection may wait to be sent for the first time, in gVisor
// and in the flow (compare TCP_NOTSENT_LOWAT of Linux). More would only become stale there and take
// memory. Bytes in flight do not count.
const notSentLimit = 256 << 10

// notSent counts the bytes of a connection that were written and never sent.
type notSent struct {
	limited        bool          // false if the flow does not report progress (CUBIC)
	sendBufferSize atomic.Int64  // bytes
	written        atomic.Uint64 // bytes that gVisor has accepted
	sent           atomic.Uint64 // bytes that were sent at least once
	blocked        atomic.Bool   // a writer waits for progress
	signal         signal        // wakes the writer
}

func (p *notSent) init(c *Conn) {
	p.limited, p.signal = !c.flow.measureOnly, c.writablec
	p.sendBufferSize.Store(int64(c.share.size[sending]))
}

func (p *notSent) add(n int) { p.written.Add(uint64(n)) }

// unsent is how many bytes were written and not sent. sent may exceed written for a moment, because
// the flow may send bytes before add is called for them.
func (p *notSent) unsent() int {
	sent, written := p.sent.Load(), p.written.Load()
	if sent >= written {
		return 0
	}
	return int(written - sent)
}

// limit is how many bytes may be unsent.
func (p *notSent) limit() int { return min(notSentLimit, int(p.sendBufferSize.Load())/2) }

// full reports whether a writer must wait for progress.
func (p *notSent) full() bool {
	if !p.limited || p.unsent() < p.limit() {
		return false
	}
	p.blocked.Store(true)
	return p.unsent() >= p.limit() // again, because progress may have run before blocked was set
}

// progress notes that total bytes have been sent so far. A FIN counts as one byte. At the end of
// the flow total is the largest number, so that writers do not wait any more.
func (p *notSent) progress(total uint64) {
	p.sent.Store(total)
	if p.blocked.Load() && p.unsent() <= p.limit()/2 && p.blocked.Swap(false) {
		p.signal.NotifyEvent(0)
	}
}
