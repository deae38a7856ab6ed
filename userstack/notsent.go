package userstack

import "sync/atomic"

// notSentLimit is how many bytes of a connection may wait to be sent for the first time, in gVisor and
// in the flow. More would only grow old there, and take memory: what the path holds is not counted.
const notSentLimit = 256 << 10

// notSent is what was written to a connection and has never been sent.
type notSent struct {
	limited        bool          // the flow tells what was sent
	sendBufferSize atomic.Int64  // size of the send buffer in bytes
	written        atomic.Uint64 // bytes that gVisor has taken
	sent           atomic.Uint64 // bytes that were sent
	blocked        atomic.Bool   // a writer waits
	signal         signal        // of the writer
}

func (p *notSent) init(c *Conn) {
	p.limited, p.signal = !c.flow.measureOnly, c.writablec
	p.sendBufferSize.Store(int64(c.share.size[sending]))
}

func (p *notSent) add(n int) { p.written.Add(uint64(n)) }

// unsent is how many bytes have been written and not sent. A flow may have sent what add does not
// know of yet.
func (p *notSent) unsent() int {
	left, written := p.sent.Load(), p.written.Load()
	if left >= written {
		return 0
	}
	return int(written - left)
}

// limit is how many bytes may be unsent.
func (p *notSent) limit() int { return min(notSentLimit, int(p.sendBufferSize.Load())/2) }

// full reports whether a writer has to wait for progress.
func (p *notSent) full() bool {
	if !p.limited || p.unsent() < p.limit() {
		return false
	}
	p.blocked.Store(true)
	return p.unsent() >= p.limit() // nothing was sent meanwhile, so that progress will see that somebody waits
}

// progress notes that total bytes have been sent so far; the FIN counts as one, and the end of the
// flow as all.
func (p *notSent) progress(total uint64) {
	p.sent.Store(total)
	if p.blocked.Load() && p.unsent() <= p.limit()/2 && p.blocked.Swap(false) {
		p.signal.NotifyEvent(0)
	}
}
