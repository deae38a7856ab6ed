package relay

import (
	"net/netip"
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

// bufferPools holds the free buffers of each size. It is all that the connections of a process
// share.
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

// budget bounds the memory of queues. A limit of zero means no bound.
type budget struct {
	limit int64
	used  atomic.Int64
	of    *budget // what this one is a part of; nil: nothing
}

// greed is how many times what is free a part of a budget may use. So one part gets three quarters
// of the whole at most, and some is always left for a part that comes later (Choudhury and Hahne,
// "Dynamic Queue Length Thresholds", 1998).
const greed = 3

// take reserves n bytes and reports whether they were there.
func (b *budget) take(n int) bool {
	used := b.used.Add(int64(n))
	if b.limit != 0 && used > b.limit || !b.takeOfWhole(n, used) {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

// takeOfWhole reserves n bytes of what b is a part of, which uses so many then.
func (b *budget) takeOfWhole(n int, used int64) bool {
	if b.of == nil {
		return true
	}
	if limit := b.of.limit; limit != 0 && used > greed*(limit-b.of.used.Load()) {
		return false
	}
	return b.of.take(n)
}

func (b *budget) give(n int) {
	b.used.Add(-int64(n))
	if b.of != nil {
		b.of.give(n)
	}
}

// queueMemory is the budget of a server's queues. The queues to clients at one address share a part
// of it.
type queueMemory struct {
	all budget

	mu    sync.Mutex
	parts map[netip.Prefix]*sourceMemory
}

// sourceMemory is the part of an address that has so many clients.
type sourceMemory struct {
	budget
	clients int
}

// acquire returns the part of an address; release has to follow when the client's queue is closed.
func (m *queueMemory) acquire(source netip.Prefix) *budget {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.parts[source]
	if p == nil {
		p = &sourceMemory{budget: budget{of: &m.all}}
		if m.parts == nil {
			m.parts = make(map[netip.Prefix]*sourceMemory)
		}
		m.parts[source] = p
	}
	p.clients++
	return &p.budget
}

func (m *queueMemory) release(source netip.Prefix) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.parts[source]
	if p.clients--; p.clients == 0 {
		delete(m.parts, source)
	}
}
