package userstack

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxBatch packets are joined at the most, and cut from one segment. Where they are large a batch
	// is more than one.
	maxBatch = 64
	minBatch = 8

	// batchBytes is what the kernel takes of UDP datagrams in one go, and a relay in four records of TLS,
	// in bytes; overhead is what a packet gains until then, from WireGuard and at a relay from DERP.
	batchBytes     = 64 << 10
	tunnelOverhead = 32 + 37

	// maxQueues is bounded by the bits of coalescer.acked.
	maxQueues = 16
)

// Device is the side of a Stack where its packets leave and others come in. link is its face
// towards gVisor.
//
// Outbound, packets wait in queues, chosen by the address that they go to. Inbound, Write goes
// straight into gVisor.
type Device struct {
	mtu     int
	batch   int // packets that are best exchanged in one call
	segment int // packets that a segment of gVisor's is cut to: whole batches
	active  func(brief bool)

	once   sync.Once
	closec chan struct{}

	dispatcher       atomic.Pointer[stack.NetworkDispatcher]
	routedDispatcher atomic.Pointer[stack.NetworkDispatcher] // for what is not for us; nil unless we are a router
	filter           atomic.Pointer[Filter]
	// clientPorts are the UDP ports of conns that filter their senders themselves.
	clientPorts portSet
	// routes tells that there may be destinations behind this host, of which clientPorts know nothing.
	isRouter atomic.Bool
	tsmp     bool                         // TSMP is spoken: pings are answered, rejections sent and heard
	own      atomic.Pointer[[]netip.Addr] // the stack's addresses; nil before there are any

	onRejected func(netip.AddrPort) // see Config.Rejected

	corked atomic.Int32 // writers whose datagrams wait for each other; see PacketConn.Cork

	queues []*Queue // a power of two

	queueFull atomic.Uint64 // outbound packets dropped because the queue was full
	filtered  atomic.Uint64 // inbound packets that no flow or filter accounts for
}

// newDevice makes a device with so many queues, a power of two.
func newDevice(mtu, batch, queues int, clock tcpip.Clock) *Device {
	d := &Device{mtu: mtu, segment: segmentPackets(mtu), active: func(bool) {}, closec: make(chan struct{})}
	if d.batch = cmp.Or(batch, max(d.segment, minBatch)); d.batch < d.segment {
		d.segment -= d.segment % d.batch
	}
	for range queues {
		d.queues = append(d.queues, newQueue(d, clock))
	}
	return d
}

// Queues returns where packets leave. Those to one address leave by the same queue, in order.
func (d *Device) Queues() []*Queue { return d.queues }

// queueOf returns which queue packets to an address leave by. The address is given as in a packet.
func (d *Device) queueOf(addr []byte) int {
	if len(d.queues) == 1 {
		return 0
	}
	host := binary.BigEndian.Uint32(addr[len(addr)-4:]) // what differs in a mesh
	return int(host * 0x9e3779b1 >> 16 & uint32(len(d.queues)-1))
}

// segmentPackets is how many packets gVisor's segments are cut to: as many as leave in one go, so
// that a segment is one again where it arrives.
func segmentPackets(mtu int) int { return min(max(batchBytes/(mtu+tunnelOverhead), 1), maxBatch) }

// queueTo returns the queue of a packet that begins with ip.
func (d *Device) queueTo(ip []byte) *Queue {
	dst := ip[16:20]
	if ip[0]>>4 == 6 {
		dst = ip[24:40]
	}
	return d.queues[d.queueOf(dst)]
}

// Write takes the IP packets that WireGuard decrypted, each from offset on. They are copied before
// it returns.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	p := d.dispatcher.Load()
	if p == nil {
		return 0, os.ErrClosed
	}
	d.active(len(bufs) == 1 && isBrief(bufs[0][offset:]))
	up := *p
	if d.isRouter.Load() {
		up = nicSelector{d}
	}
	c := coalescer{d: d}
	for _, b := range bufs {
		packet := b[offset:]
		if d.accept(packet) {
			c.add(packet, up)
		}
	}
	c.flush(up)
	for acked := c.ackedQueues; acked != 0; acked &= acked - 1 {
		d.queues[bits.TrailingZeros(acked)].notifyIfReadable() // an acknowledgement lets a flow send more
	}
	return len(bufs), nil
}

// BatchSize is how many packets are best exchanged in one call.
func (d *Device) BatchSize() int { return d.batch }

// MTU is the length of the largest packet, in bytes.
func (d *Device) MTU() int { return d.mtu }

// Close unblocks every writer, and drops what is queued. It ends the traffic, not the stack.
func (d *Device) Close() error {
	d.once.Do(d.shutDown)
	return nil
}

func (d *Device) shutDown() {
	for _, q := range d.queues {
		q.close()
	}
	d.dispatcher.Store(nil)
	d.routedDispatcher.Store(nil)
	close(d.closec)
}

// enqueue queues a packet for its reader.
func (d *Device) enqueue(pkt *stack.PacketBuffer) tcpip.Error {
	return d.queueTo(pkt.NetworkHeader().Slice()).enqueue(pkt)
}

// notifyReadable has the readers called of all queues in which something waits.
func (d *Device) notifyReadable() {
	for _, q := range d.queues {
		q.notifyIfReadable()
	}
}

// PathBack tells that the path to the addresses that matches names may carry packets again: what
// waits for the end of a back-off is sent now.
func (s *Stack) PathBack(matches func(netip.Addr) bool) {
	for _, q := range s.dev.queues {
		q.pathBack(matches)
	}
}

// PathChanged tells that packets to the addresses that matches names take another path from now on.
func (s *Stack) PathChanged(matches func(netip.Addr) bool) {
	for _, q := range s.dev.queues {
		q.pathChanged(matches)
	}
}
