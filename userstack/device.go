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
	// maxBatch is the largest number of packets that are merged, or cut from one segment. minBatch is
	// the smallest Device.batch: with a large MTU a batch spans several segments.
	maxBatch = 64
	minBatch = 8

	// batchBytes is how many bytes of UDP datagrams the kernel takes in one call (UDP GSO). A relay
	// sends as many in four TLS records.
	batchBytes = 64 << 10

	// tunnelOverhead is what WireGuard and DERP add to a packet, in bytes.
	tunnelOverhead = 32 + 37

	// maxQueues is limited by the bits of coalescer.ackedQueues.
	maxQueues = 16
)

// Device is the network side of a Stack, for WireGuard. link is its other side, for gVisor.
//
// Outbound packets wait in queues, which are chosen by the destination address. Inbound packets are
// handed to gVisor within Write.
type Device struct {
	mtu      int
	batch    int // packets that are best exchanged in one call
	segment  int // packets that a segment of gVisor's is cut to: whole batches
	activity Activity

	once   sync.Once
	closec chan struct{}

	dispatcher atomic.Pointer[stack.NetworkDispatcher]
	// routedDispatcher gets the packets for foreign addresses. It is nil unless there is a Router.
	routedDispatcher atomic.Pointer[stack.NetworkDispatcher]
	filter           atomic.Pointer[Filter]
	// clientPorts are the UDP ports of client sockets, which filter their senders themselves.
	clientPorts portSet
	// isRouter: there is a Router, so clientPorts counts only for the stack's own addresses.
	isRouter atomic.Bool
	tsmp     bool                         // answer TSMP pings, send and receive TSMP rejections
	own      atomic.Pointer[[]netip.Addr] // the stack's addresses; never nil

	onRejected func(netip.AddrPort) // see Config.Rejected

	corked atomic.Int32 // number of Cork calls without Uncork; see PacketConn.Cork

	queues []*Queue // their number is a power of two

	queueFull atomic.Uint64 // outbound packets dropped by a full queue
	filtered  atomic.Uint64 // inbound packets dropped by accept
}

// newDevice makes a device; queues must be a power of two.
func newDevice(mtu, batch, queues int, clock tcpip.Clock) *Device {
	d := &Device{mtu: mtu, segment: segmentPackets(mtu), activity: noActivity{}, closec: make(chan struct{})}
	if d.batch = cmp.Or(batch, max(d.segment, minBatch)); d.batch < d.segment {
		d.segment -= d.segment % d.batch
	}
	d.own.Store(new([]netip.Addr))
	for range queues {
		d.queues = append(d.queues, newQueue(d, clock))
	}
	return d
}

// Queues returns the queues of outbound packets. Packets to one address leave by one queue, in
// order.
func (d *Device) Queues() []*Queue { return d.queues }

// queueOf returns the index of the queue for a remote address, which is given as 4 or 16 bytes.
func (d *Device) queueOf(addr []byte) int {
	if len(d.queues) == 1 {
		return 0
	}
	host := binary.BigEndian.Uint32(addr[len(addr)-4:]) // the part in which the addresses of a mesh differ
	return int(host * 0x9e3779b1 >> 16 & uint32(len(d.queues)-1))
}

// segmentPackets is how many packets one gVisor segment makes: as many as leave in one system call,
// so that the receiving stack can merge them into one segment again.
func segmentPackets(mtu int) int { return min(max(batchBytes/(mtu+tunnelOverhead), 1), maxBatch) }

// queueTo returns the queue of an outbound packet, given its IP header.
func (d *Device) queueTo(ip []byte) *Queue {
	dst := ip[16:20]
	if ip[0]>>4 == 6 {
		dst = ip[24:40]
	}
	return d.queues[d.queueOf(dst)]
}

// Write takes IP packets that WireGuard has decrypted, each from offset on. It does not keep bufs.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	p := d.dispatcher.Load()
	if p == nil {
		return 0, os.ErrClosed
	}
	kind := bulk
	if len(bufs) == 1 {
		kind = trafficOf(bufs[0][offset:])
	}
	d.tell(kind)
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
		d.queues[bits.TrailingZeros(acked)].notifyIfReadable() // after an acknowledgement a flow may send more
	}
	return len(bufs), nil
}

// BatchSize is the best number of packets to read or write in one call.
func (d *Device) BatchSize() int { return d.batch }

// MTU is the length of the longest packet, in bytes.
func (d *Device) MTU() int { return d.mtu }

// Close drops all queued packets and unblocks every writer. The stack itself stays open.
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

// enqueue appends a packet to its queue.
func (d *Device) enqueue(pkt *stack.PacketBuffer) tcpip.Error {
	return d.queueTo(pkt.NetworkHeader().Slice()).enqueue(pkt)
}

// notifyReadable notifies the readers of all queues that are not empty.
func (d *Device) notifyReadable() {
	for _, q := range d.queues {
		q.notifyIfReadable()
	}
}

// PathBack tells the stack that the path to the addresses that matches accepts may work again.
// Flows that wait for their retransmission back-off send now.
func (s *Stack) PathBack(matches func(netip.Addr) bool) {
	for _, q := range s.dev.queues {
		q.pathBack(matches)
	}
}

// PathChanged tells the stack that packets to the addresses that matches accepts take another path
// from now on, so that measured bandwidth and round-trip times are void.
func (s *Stack) PathChanged(matches func(netip.Addr) bool) {
	for _, q := range s.dev.queues {
		q.pathChanged(matches)
	}
}
