package userstack

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// bufferedSegment is a segment of gVisor's, of any size, whose data are sent in packets and kept until they
// are acknowledged. It holds a reference to the segment; gVisor keeps the same memory for as long.
type bufferedSegment struct {
	pkt  *stack.PacketBuffer
	seq  uint32
	size int // bytes of data
	fin  bool
}

func (c *bufferedSegment) end() uint32 {
	if c.fin {
		return c.seq + uint32(c.size) + 1
	}
	return c.seq + uint32(c.size)
}

// sendBuffer are those that follow each other in the stream, in a ring.
type sendBuffer struct {
	ring   []bufferedSegment // its length is a power of two
	first  int
	count  int
	cursor cursor
}

// cursor is where the last packet ended, so that the next is found without a search.
type cursor struct {
	seq  uint32 // of the first byte of rest
	n    int    // the chunk, counted from the first; valid while rest is not nil
	rest []byte // of a view of it
	view *buffer.View
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

// end is where the last chunk ends; of no chunks it is 0.
func (c *sendBuffer) end() uint32 {
	if c.count == 0 {
		return 0
	}
	return c.get(c.count - 1).end()
}

// release gives back the chunks that end at una or before.
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

// copy copies the bytes of the stream from seq on to b. It reports whether they end where a chunk
// does.
func (c *sendBuffer) copy(b []byte, seq uint32) (whole bool) {
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

// seek moves the cursor to seq, which a chunk must hold.
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

// enter moves the cursor to the beginning of chunk n.
func (c *sendBuffer) enter(n int) {
	k := c.get(n)
	views, offset := k.pkt.AsViewList()
	offset += k.pkt.Size() - k.size // the headers
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

// next moves the cursor to the next view, or the next chunk.
func (c *sendBuffer) next() {
	if c.cursor.view == nil {
		c.enter(c.cursor.n + 1)
		return
	}
	c.cursor.rest, c.cursor.view = c.cursor.view.AsSlice(), c.cursor.view.Next()
}
