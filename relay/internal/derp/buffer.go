package derp

import "sync"

// Sizes of the pooled buffers.
const (
	smallBuffer  = 2 << 10  // the first packets of a quiet flow
	RecordBuffer = 16 << 10 // the content of one TLS record
	LargeBuffer  = 72 << 10 // any frame, or a batch of 64 KiB behind the beginning of another frame
)

var bufferSizes = [...]int{smallBuffer, RecordBuffer, LargeBuffer}

// bufferPools holds the free buffers of each size. All connections of the process share it.
var bufferPools [len(bufferSizes)]sync.Pool

// buffer is memory with one owner, who returns it with Free.
type buffer struct {
	B     []byte // all of the memory
	pool  *sync.Pool
	block block // used by a queue that holds the buffer
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
	return &buffer{B: make([]byte, size)} // larger than any frame that is relayed: not pooled
}

// Free returns the buffer to its pool. The caller must not use it any more. Free of a nil buffer
// does nothing.
func (b *buffer) Free() {
	if b != nil && b.pool != nil {
		b.pool.Put(b)
	}
}
