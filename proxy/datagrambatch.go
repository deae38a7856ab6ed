package proxy

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"ginnel/internal/sys"
)

const (
	// batchSlots is how many datagrams a large batch receives at a time. Each slot has 64 KiB of
	// address space; only the pages that were written to take memory.
	batchSlots = 16

	// maxLargeBatches bounds the large batches that a Server uses at a time. Beyond it, batches of one
	// slot are used, so that goroutines that are held up, for instance by a name lookup, hold little
	// memory.
	maxLargeBatches = 4
)

// datagramBatch is the memory for datagrams between their receipt and their sending.
type datagramBatch struct {
	udp   *sys.Batch
	pool  *batchPool       // nil for a small batch
	data  [][]byte         // the datagrams that were received last
	from  []netip.AddrPort // the source of each; invalid if the socket is connected
	slots [][]byte         // the slots of udp, without the room for a header at their start
	sizes []int
	out   [][]byte // the datagrams to send
}

func newDatagramBatch(slots int) *datagramBatch {
	b := &datagramBatch{udp: sys.NewBatch(slots), from: make([]netip.AddrPort, slots), sizes: make([]int, slots)}
	for i := range slots {
		b.slots = append(b.slots, b.udp.Slot(i)[datagramHeader:])
	}
	return b
}

var (
	largeBatches = sync.Pool{New: func() any { return newDatagramBatch(batchSlots) }}
	smallBatches = sync.Pool{New: func() any { return newDatagramBatch(1) }}
)

// batchPool counts the large batches that one Server uses.
type batchPool struct{ large atomic.Int32 }

// get returns a batch for the datagrams of src. The caller has to free it.
func (p *batchPool) get(src packetSource) *datagramBatch {
	if !src.batches() {
		return smallBatches.Get().(*datagramBatch)
	}
	if p.large.Add(1) > maxLargeBatches {
		p.large.Add(-1)
		return smallBatches.Get().(*datagramBatch)
	}
	b := largeBatches.Get().(*datagramBatch)
	b.pool = p
	return b
}

func (b *datagramBatch) free() {
	pool := b.pool
	if pool == nil {
		smallBatches.Put(b)
		return
	}
	b.pool = nil
	largeBatches.Put(b)
	pool.large.Add(-1)
}

// withHeader returns header and datagram i, joined without a copy of the datagram. The batch was
// received from a source that newSlottedSource has made.
func (b *datagramBatch) withHeader(i int, header []byte) []byte {
	slot := b.udp.Slot(i)
	start := datagramHeader - len(header)
	copy(slot[start:], header)
	return slot[start : datagramHeader+len(b.data[i])]
}
