package userstack

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// bufferedSegment is a segment that gVisor has sent, of any size. Its data leave in packets and are
// kept until the peer has acknowledged them. It holds a reference to the packet buffer, whose
// memory gVisor keeps for as long anyway.
type bufferedSegment struct {
	pkt  *stack.PacketBuffer
	seq  uint32
	size int // payload bytes
	fin  bool
}

// end is the sequence number after the segment; a FIN counts as one.
func (c *bufferedSegment) end() uint32 {
	if c.fin {
		return c.seq + uint32(c.size) + 1
	}
	return c.seq + uint32(c.size)
}

// sendBuffer is a ring of consecutive segments of one stream.
type sendBuffer struct {
	ring   []bufferedSegment // the length is a power of two
	first  int
	count  int
	cursor cursor
}

// cursor is the position after the last packet that was built, so that the next one is found
// without a search.
type cursor struct {
	seq  uint32       // sequence number of rest[0]
	n    int          // index of the segment, counted from the first; valid unless rest is nil
	rest []byte       // the unread part of the current view
	view *buffer.View // the view after the current one
}

const minSendBuffer = 4

func (c *sendBuffer) get(i int) *bufferedSegment { return &c.ring[(c.first+i)&(len(c.ring)-1)] }

func (c *sendBuffer) push(k bufferedSegment) {
	if c.count == len(c.ring) {
		grown := make([]bufferedSegment, max(minSendBuffer, 2*len(c.ring)))
		for i := range c.count {
			grown[i] = *c.get(i)
		}
		c.ring, c.first = grown, 0
	}
	c.count++
	*c.get(c.count - 1) = k
}

// end is the sequence number after the last segment, or 0 if there is none.
func (c *sendBuffer) end() uint32 {
	if c.count == 0 {
		return 0
	}
	return c.get(c.count - 1).end()
}

// release drops the segments that end at una or before.
func (c *sendBuffer) release(una uint32) {
	for c.count > 0 && int32(una-c.get(0).end()) >= 0 {
		k := c.get(0)
		k.pkt.DecRef()
		*k = bufferedSegment{}
		c.first = (c.first + 1) & (len(c.ring) - 1)
		c.count--
		if c.cursor.n--; c.cursor.n < 0 {
			c.cursor = cursor{}
		}
	}
	if c.count == 0 && len(c.ring) > 16*minSendBuffer {
		c.ring, c.first = nil, 0
	}
}

// copy copies the bytes of the stream from sequence number seq on to b. It reports whether they end
// where a segment ends.
func (c *sendBuffer) copy(b []byte, seq uint32) (atEnd bool) {
	if c.cursor.rest == nil || c.cursor.seq != seq {
		c.seek(seq)
	}
	a := &c.cursor
	for len(b) > 0 {
		for len(a.rest) == 0 {
			c.next()
		}
		n := copy(b, a.rest)
		b, a.rest, a.seq = b[n:], a.rest[n:], a.seq+uint32(n)
	}
	k := c.get(a.n)
	return a.seq == k.seq+uint32(k.size)
}

// seek moves the cursor to seq, which a segment must contain.
func (c *sendBuffer) seek(seq uint32) {
	lo, hi := 0, c.count
	for lo < hi {
		mid := (lo + hi) / 2
		if k := c.get(mid); int32(k.seq+uint32(k.size)-seq) > 0 {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	c.enter(lo)
	for skip := int(seq - c.cursor.seq); skip > 0; {
		n := min(skip, len(c.cursor.rest))
		c.cursor.rest, c.cursor.seq, skip = c.cursor.rest[n:], c.cursor.seq+uint32(n), skip-n
		if skip > 0 {
			c.next()
		}
	}
}

// enter moves the cursor to the first payload byte of segment n.
func (c *sendBuffer) enter(n int) {
	k := c.get(n)
	views, offset := k.pkt.AsViewList()
	offset += k.pkt.Size() - k.size // skip the headers
	c.cursor = cursor{seq: k.seq, n: n, view: views.Front()}
	for c.cursor.view != nil {
		c.cursor.rest = c.cursor.view.AsSlice()
		c.cursor.view = c.cursor.view.Next()
		if offset < len(c.cursor.rest) {
			c.cursor.rest = c.cursor.rest[offset:]
			return
		}
		offset -= len(c.cursor.rest)
	}
	c.cursor.rest = []byte{}
}

// next moves the cursor to the next view, or to the next segment.
func (c *sendBuffer) next() {
	if c.cursor.view == nil {
		c.enter(c.cursor.n + 1)
		return
	}
	c.cursor.rest, c.cursor.view = c.cursor.view.AsSlice(), c.cursor.view.Next()
}
