package derp

import "sync"

// Sizes of the pooled buffers.
const (
	smallBuffer  = 2 << 10  // the first packets of a quiet flow
	RecordBuffer = 16 << 10 // what one TLS record carries
	LargeBuffer  = 72 << 10 // any frame, or a batch of 64 KiB behind the beginning of a frame
)

var bufferSizes = [...]int{smallBuffer, RecordBuffer, LargeBuffer}

// bufferPools holds the free buffers of each size. It is all that the connections of a process
// share.
var bufferPools [len(bufferSizes)]sync.Pool

// buffer is a piece of memory with one owner, who gives it back with free.
type buffer struct {
	B     []byte // the whole of it
	pool  *sync.Pool
	block block // what a queue needs to know of a buffer that it holds
}

// NewBuffer returns a buffer of at least size bytes with undefined content.
func NewBuffer(size int) *buffer {
	for i, n := range bufferSizes {
		if size > n {
			continue
		}
		if b, ok := bufferPools[i].Get().(*buffer); ok {
			return b
		}
		return &buffer{B: make([]byte, n), pool: &bufferPools[i]}
	}
	return &buffer{B: make([]byte, size)} // larger than any frame that is relayed; left to the collector
}

// Free gives the buffer back; the caller must not use it any more. A nil buffer is fine.
func (b *buffer) Free() {
	if b != nil && b.pool != nil {
		b.pool.Put(b)
	}
}
