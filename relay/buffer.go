package relay

import (
	"sync"
	"sync/atomic"
)

// Sizes of the pooled buffers.
const (
	smallBuffer  = 2 << 10  // the first packets of a quiet flow
	recordBuffer = 16 << 10 // what one TLS record carries
	largeBuffer  = 72 << 10 // any frame, or a batch of 64 KiB behind the beginning of a frame
)

var bufferSizes = [...]int{smallBuffer, recordBuffer, largeBuffer}

// bufferPools holds the free buffers of each size. It is all that the connections of a process share.
var bufferPools [len(bufferSizes)]sync.Pool

// buffer is a piece of memory with one owner, who gives it back with free.
type buffer struct {
	b     []byte // the whole of it
	pool  *sync.Pool
	block block // what a queue needs to know of a buffer that it holds
}

// newBuffer returns a buffer of at least size bytes with undefined content.
func newBuffer(size int) *buffer {
	for i, n := range bufferSizes {
		if size > n {
			continue
		}
		if b, ok := bufferPools[i].Get().(*buffer); ok {
			return b
		}
		return &buffer{b: make([]byte, n), pool: &bufferPools[i]}
	}
	return &buffer{b: make([]byte, size)} // larger than any frame that is relayed; left to the collector
}

// free gives the buffer back; the caller must not use it any more. A nil buffer is fine.
func (b *buffer) free() {
	if b != nil && b.pool != nil {
		b.pool.Put(b)
	}
}

// budget bounds the memory of all queues of a server together. A limit of zero means no bound.
type budget struct {
	limit int64
	used  atomic.Int64
}

// take reserves n bytes and reports whether they were there.
func (b *budget) take(n int) bool {
	if used := b.used.Add(int64(n)); b.limit == 0 || used <= b.limit {
		return true
	}
	b.used.Add(-int64(n))
	return false
}

func (b *budget) give(n int) { b.used.Add(-int64(n)) }
