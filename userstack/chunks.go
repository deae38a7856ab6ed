package userstack

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// chunk is a segment of gVisor's, of any size, whose data are sent in packets and kept until they
// are acknowledged. It holds a reference to the segment; gVisor keeps the same memory for as long.
type chunk struct {
	pkt  *stack.PacketBuffer
	seq  uint32
	size int // bytes of data
	fin  bool
}

func (c *chunk) end() uint32 {
	if c.fin {
		return c.seq + uint32(c.size) + 1
	}
	return c.seq + uint32(c.size)
}

// chunks are those that follow each other in the stream, in a ring.
type chunks struct {
	ring  []chunk // its length is a power of two
	first int
	count int
	at    cursor
}

// cursor is where the last packet ended, so that the next is found without a search.
type cursor struct {
	seq  uint32 // of the first byte of rest
	n    int    // the chunk, counted from the first; valid while rest is not nil
	rest []byte // of a view of it
	view *buffer.View
}

const minChunks = 4

func (c *chunks) get(i int) *chunk { return &c.ring[(c.first+i)&(len(c.ring)-1)] }

func (c *chunks) push(k chunk) {
	if c.count == len(c.ring) {
		grown := make([]chunk, max(minChunks, 2*len(c.ring)))
		for i := range c.count {
			grown[i] = *c.get(i)
		}
		c.ring, c.first = grown, 0
	}
	c.count++
	*c.get(c.count - 1) = k
}

// end is where the last chunk ends; of no chunks it is 0.
func (c *chunks) end() uint32 {
	if c.count == 0 {
		return 0
	}
	return c.get(c.count - 1).end()
}

// drop gives back the chunks that end at una or before.
func (c *chunks) drop(una uint32) {
	for c.count > 0 && int32(una-c.get(0).end()) >= 0 {
		k := c.get(0)
		k.pkt.DecRef()
		*k = chunk{}
		c.first = (c.first + 1) & (len(c.ring) - 1)
		c.count--
		if c.at.n--; c.at.n < 0 {
			c.at = cursor{}
		}
	}
	if c.count == 0 && len(c.ring) > 16*minChunks {
		c.ring, c.first = nil, 0
	}
}

// copy copies the bytes of the stream from seq on to b. It reports whether they end where a chunk
// does.
func (c *chunks) copy(b []byte, seq uint32) (whole bool) {
	if c.at.rest == nil || c.at.seq != seq {
		c.seek(seq)
	}
	a := &c.at
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
func (c *chunks) seek(seq uint32) {
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
	for skip := int(seq - c.at.seq); skip > 0; {
		n := min(skip, len(c.at.rest))
		c.at.rest, c.at.seq, skip = c.at.rest[n:], c.at.seq+uint32(n), skip-n
		if skip > 0 {
			c.next()
		}
	}
}

// enter moves the cursor to the beginning of chunk n.
func (c *chunks) enter(n int) {
	k := c.get(n)
	views, offset := k.pkt.AsViewList()
	offset += k.pkt.Size() - k.size // the headers
	c.at = cursor{seq: k.seq, n: n, view: views.Front()}
	for c.at.view != nil {
		c.at.rest = c.at.view.AsSlice()
		c.at.view = c.at.view.Next()
		if offset < len(c.at.rest) {
			c.at.rest = c.at.rest[offset:]
			return
		}
		offset -= len(c.at.rest)
	}
	c.at.rest = []byte{}
}

// next moves the cursor to the next view, or the next chunk.
func (c *chunks) next() {
	if c.at.view == nil {
		c.enter(c.at.n + 1)
		return
	}
	c.at.rest, c.at.view = c.at.view.AsSlice(), c.at.view.Next()
}
