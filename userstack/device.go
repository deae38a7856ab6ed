package userstack

import (
	"cmp"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// batchSize packets are exchanged with WireGuard in one call: one segment of 64 KiB at an MTU of 1420.
	batchSize = 46

	// maxInFlight packets may be between the stack and the network: two batches. More only wait in WireGuard's
	// queues, where each holds a buffer of 64 KiB.
	maxInFlight = 2 * batchSize

	// stallTime is how long the stack waits for packets in flight to be reported as sent. WireGuard drops packets
	// without a report, those for unknown peers for one, so the count is a pace and not a promise.
	stallTime = 5 * time.Millisecond

	// maxQueued bytes wait for WireGuard to read them. Beyond that TCP and UDP writers block and everything else is
	// dropped.
	maxQueued = 256 << 10

	// packetOverhead is what a queued packet costs beside its bytes, so that a queue of small ones is bounded too.
	packetOverhead = 512
)

// device lies between gVisor and WireGuard. To WireGuard it is the tun.Device; link is its face towards gVisor.
//
// enqueue (gVisor, any goroutine) appends to queue; Read (WireGuard's one reader) takes from it. Write (WireGuard,
// one goroutine for each peer) goes straight into gVisor.
type device struct {
	mtu    int
	batch  int
	closec chan struct{}
	events chan tun.Event
	once   sync.Once

	dispatcher atomic.Pointer[stack.NetworkDispatcher]
	foreign    atomic.Pointer[stack.NetworkDispatcher] // for what is not for us; nil unless we are a router
	filter     atomic.Pointer[Filter]
	// clientPorts are the UDP ports of conns that filter their senders themselves.
	clientPorts portSet
	// routes tells that there may be destinations behind this host, of which clientPorts know nothing.
	routes atomic.Bool
	tsmp   bool                         // TSMP pings are answered
	own    atomic.Pointer[[]netip.Addr] // the stack's addresses; nil before there are any

	mu     sync.Mutex
	queue  packetQueue
	room   sync.Cond // on mu; signalled when queued falls below maxQueued, and on Close
	queued int       // bytes in queue
	closed bool

	wakec    chan struct{} // capacity 1; tells Read that the queue or the credit changed
	reading  segmenter     // what Read is cutting; owned by Read
	stall    *time.Timer   // runs while stalling; both owned by Read
	stalling bool          // all credit is used up
	inFlight atomic.Int64  // packets given to WireGuard and not reported as sent

	drops   atomic.Uint64 // outbound packets dropped because the queue was full
	refused atomic.Uint64 // inbound packets that no flow or filter accounts for
}

func newDevice(mtu, batch int) *device {
	d := &device{
		mtu:    mtu,
		batch:  cmp.Or(batch, batchSize),
		closec: make(chan struct{}),
		events: make(chan tun.Event),
		wakec:  make(chan struct{}, 1),
		stall:  time.NewTimer(stallTime),
	}
	d.stall.Stop()
	d.room.L = &d.mu
	return d
}

// Read fills bufs with whole IP packets, each from offset on, and blocks until there is at least one. It returns
// os.ErrClosed after Close.
func (d *device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		credit := maxInFlight - int(d.inFlight.Load())
		if credit > 0 {
			if n := d.fill(bufs[:min(len(bufs), credit)], sizes, offset); n > 0 {
				d.inFlight.Add(int64(n))
				return n, nil
			}
		}
		if credit > 0 {
			d.stall.Stop()
		} else if !d.stalling {
			d.stall.Reset(stallTime)
		}
		d.stalling = credit <= 0
		select {
		case <-d.wakec:
		case <-d.stall.C:
			d.stalling = false
			d.inFlight.Store(0)
		case <-d.closec:
			return 0, os.ErrClosed
		}
	}
}

// fill cuts queued packets into bufs until those are full or the queue is empty.
func (d *device) fill(bufs [][]byte, sizes []int, offset int) (n int) {
	for n < len(bufs) {
		if d.reading.empty() {
			pkt := d.pop()
			if pkt == nil {
				return n
			}
			d.reading.load(pkt)
		}
		size := d.reading.next(bufs[n][offset:])
		if size == 0 {
			continue // a packet that cannot be cut; counted by the segmenter
		}
		sizes[n] = size
		n++
	}
	return n
}

func (d *device) pop() *stack.PacketBuffer {
	d.mu.Lock()
	defer d.mu.Unlock()
	pkt := d.queue.pop()
	if pkt == nil {
		return nil
	}
	full := d.queued >= maxQueued
	d.queued -= cost(pkt)
	if full && d.queued < maxQueued {
		d.room.Broadcast()
	}
	return pkt
}

// sent takes n packets out of flight.
func (d *device) sent(n int) {
	left := d.inFlight.Add(-int64(n))
	if left < 0 {
		// Reported after a stall had already written them off.
		d.inFlight.CompareAndSwap(left, 0)
	}
	if left+int64(n) >= maxInFlight {
		d.wake()
	}
}

func (d *device) wake() {
	select {
	case d.wakec <- struct{}{}:
	default:
	}
}

// Write takes the IP packets that WireGuard decrypted, each from offset on. They are copied before it returns.
func (d *device) Write(bufs [][]byte, offset int) (int, error) {
	p := d.dispatcher.Load()
	if p == nil {
		return 0, os.ErrClosed
	}
	up := *p
	if d.routes.Load() {
		up = sorter{d}
	}
	var c coalescer
	for _, b := range bufs {
		packet := b[offset:]
		if d.accept(packet) {
			c.add(packet, up)
		}
	}
	c.flush(up)
	return len(bufs), nil
}

// BatchSize implements tun.Device.
func (d *device) BatchSize() int { return d.batch }

// MTU implements tun.Device.
func (d *device) MTU() (int, error) { return d.mtu, nil }

// Name implements tun.Device.
func (d *device) Name() (string, error) { return "ginnel", nil }

// File implements tun.Device: there is none.
func (d *device) File() *os.File { return nil }

// Events implements tun.Device. Nothing is ever sent; Close closes it.
func (d *device) Events() <-chan tun.Event { return d.events }

// Close unblocks Read and every writer, and drops what is queued.
func (d *device) Close() error {
	d.once.Do(d.shutDown)
	return nil
}

func (d *device) shutDown() {
	d.mu.Lock()
	d.closed = true
	for pkt := d.queue.pop(); pkt != nil; pkt = d.queue.pop() {
		pkt.DecRef()
	}
	d.queued = 0
	d.room.Broadcast()
	d.mu.Unlock()
	d.dispatcher.Store(nil)
	d.foreign.Store(nil)
	close(d.closec)
	close(d.events)
}

// enqueue queues a packet for Read. A full queue blocks TCP and UDP, whose senders wait as on any network, and drops the
// rest.
func (d *device) enqueue(pkt *stack.PacketBuffer) tcpip.Error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.queued >= maxQueued && !d.closed {
		if !waits(pkt.TransportProtocolNumber) {
			d.drops.Add(1)
			return &tcpip.ErrNoBufferSpace{}
		}
		d.room.Wait()
	}
	if d.closed {
		return &tcpip.ErrClosedForSend{}
	}
	d.queue.push(pkt.IncRef())
	d.queued += cost(pkt)
	d.wake()
	return nil
}

func waits(p tcpip.TransportProtocolNumber) bool {
	return p == header.TCPProtocolNumber || p == header.UDPProtocolNumber
}

// cost is what a packet counts for in device.queued.
func cost(pkt *stack.PacketBuffer) int { return pkt.Size() + packetOverhead }

// packetQueue is a ring that grows to what was once needed; maxQueued bounds it.
type packetQueue struct {
	ring []*stack.PacketBuffer
	head int
	n    int
}

func (q *packetQueue) push(pkt *stack.PacketBuffer) {
	if q.n == len(q.ring) {
		grown := make([]*stack.PacketBuffer, max(64, 2*len(q.ring)))
		for i := range q.n {
			grown[i] = q.ring[(q.head+i)%len(q.ring)]
		}
		q.ring, q.head = grown, 0
	}
	q.ring[(q.head+q.n)%len(q.ring)] = pkt
	q.n++
}

func (q *packetQueue) pop() *stack.PacketBuffer {
	if q.n == 0 {
		return nil
	}
	pkt := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	return pkt
}
