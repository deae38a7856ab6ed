package userstack

import (
	"cmp"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxBatch packets are joined at the most, and cut from one segment. Where they are large a batch is more than one.
	maxBatch = 64
	minBatch = 8

	// oneGo is what the kernel takes of UDP datagrams in one go, and a relay in four records of TLS, in bytes; overhead is what a
	// packet gains until then, from WireGuard and at a relay from DERP.
	oneGo    = 64 << 10
	overhead = 32 + 37

	// maxQueued bytes wait to be read. Beyond that TCP and UDP writers block and everything else is dropped.
	maxQueued = 256 << 10

	// maxCorked of them wait for Uncork: a batch.
	maxCorked = 64 << 10

	// packetOverhead is what a queued packet costs beside its bytes, so that a queue of small ones is bounded too.
	packetOverhead = 512
)

// Device is the side of a Stack where its packets leave and others come in. link is its face towards gVisor.
//
// Outbound, gVisor appends to queue in any goroutine, and calls ready, whose business it is that somebody reads. Inbound, Write
// goes straight into gVisor.
type Device struct {
	mtu     int
	batch   int // packets that are best exchanged in one call
	segment int // packets that a segment of gVisor's is cut to: whole batches
	active  func(brief bool)

	once   sync.Once
	closec chan struct{}

	dispatcher atomic.Pointer[stack.NetworkDispatcher]
	foreign    atomic.Pointer[stack.NetworkDispatcher] // for what is not for us; nil unless we are a router
	filter     atomic.Pointer[Filter]
	// clientPorts are the UDP ports of conns that filter their senders themselves.
	clientPorts portSet
	// routes tells that there may be destinations behind this host, of which clientPorts know nothing.
	routes atomic.Bool
	tsmp   bool                         // TSMP pings are answered
	own    atomic.Pointer[[]netip.Addr] // the stack's addresses; nil before there are any
	ready  atomic.Pointer[func()]       // see Notify
	corks  atomic.Int32                 // writers whose datagrams wait for each other; see PacketConn.Cork

	mu     sync.Mutex
	queue  ring[*stack.PacketBuffer]
	flows  flows
	idle   idleWatch
	report trafficReport
	room   sync.Cond // on mu; signalled when queued falls below maxQueued, and on Close
	queued int       // bytes in queue
	acks   acks
	look   tcpip.Timer   // runs lookAfterAcks; nil until there is need
	looks  time.Duration // when it does; 0: not
	closed bool

	reading segmenter // what Read is cutting; owned by whoever reads

	drops   atomic.Uint64 // outbound packets dropped because the queue was full
	refused atomic.Uint64 // inbound packets that no flow or filter accounts for
}

func newDevice(mtu, batch int, clock tcpip.Clock) *Device {
	d := &Device{mtu: mtu, segment: segmentPackets(mtu), active: func(bool) {}, closec: make(chan struct{})}
	d.flows.init(clock, &d.acks, d.serveFlows)
	d.idle.d, d.report.d = d, d
	if d.batch = cmp.Or(batch, max(d.segment, minBatch)); d.batch < d.segment {
		d.segment -= d.segment % d.batch
	}
	d.room.L = &d.mu
	d.acks.full = uint32(max(mtu-header.IPv6MinimumSize-header.TCPHeaderMaximumSize, 1)) // the least that fills a packet
	return d
}

// segmentPackets is how many packets gVisor's segments are cut to: as many as leave in one go, so that a segment is one again
// where it arrives.
func segmentPackets(mtu int) int { return min(max(oneGo/(mtu+overhead), 1), maxBatch) }

// Notify has ready called whenever there is something to read, in the goroutine that made it, which may hold locks of gVisor: it
// must not write to the device. It is called at once if there is something already.
func (d *Device) Notify(ready func()) {
	d.ready.Store(&ready)
	if d.Waiting() > 0 {
		ready()
	}
}

// Waiting returns how many bytes there are to read, and what they cost.
func (d *Device) Waiting() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queued + d.flows.ready()
}

// Read fills bufs with whole IP packets, each from offset on, and returns how many there are. It does not wait. One goroutine
// may read at a time.
func (d *Device) Read(bufs [][]byte, sizes []int, offset int) (n int) {
	n = d.readQueue(bufs, sizes, offset)
	if n == len(bufs) {
		return n
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.flows.now()
	m := d.flows.read(now, bufs[n:], sizes[n:], offset)
	d.report.noteLocked(now, m)
	return n + m
}

// readQueue reads what is not of a flow: acknowledgements, datagrams, the beginnings and ends of connections.
func (d *Device) readQueue(bufs [][]byte, sizes []int, offset int) (n int) {
	for n < len(bufs) {
		if d.reading.empty() {
			pkt := d.pop()
			if pkt == nil {
				return n
			}
			d.reading.load(pkt)
		}
		for d.reading.short() {
			pkt := d.popNext()
			if pkt == nil {
				break
			}
			d.reading.extend(pkt)
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

func (d *Device) pop() *stack.PacketBuffer {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.popLocked()
}

// popNext is pop if that continues what is being cut, or else nil.
func (d *Device) popNext() *stack.PacketBuffer {
	d.mu.Lock()
	defer d.mu.Unlock()
	if pkt := d.queue.first(); pkt == nil || !d.reading.continues(pkt) {
		return nil
	}
	return d.popLocked()
}

func (d *Device) popLocked() *stack.PacketBuffer {
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

// Write takes the IP packets that WireGuard decrypted, each from offset on. They are copied before it returns.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	p := d.dispatcher.Load()
	if p == nil {
		return 0, os.ErrClosed
	}
	d.active(len(bufs) == 1 && isBrief(bufs[0][offset:]))
	up := *p
	if d.routes.Load() {
		up = sorter{d}
	}
	c := coalescer{d: d}
	for _, b := range bufs {
		packet := b[offset:]
		if d.accept(packet) {
			c.add(packet, up)
		}
	}
	c.flush(up)
	if c.acked && d.Waiting() > 0 {
		d.tellReady() // an acknowledgement lets a flow send more
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
	d.mu.Lock()
	d.closed = true
	for pkt := d.queue.pop(); pkt != nil; pkt = d.queue.pop() {
		pkt.DecRef()
	}
	d.queued = 0
	d.flows.close()
	d.idle.stopLocked()
	d.report.stopLocked()
	d.acks.drop()
	if d.look != nil {
		d.look.Stop()
	}
	d.room.Broadcast()
	d.mu.Unlock()
	d.dispatcher.Store(nil)
	d.foreign.Store(nil)
	close(d.closec)
}

// enqueue queues a packet for Read. A full queue blocks TCP and UDP, whose senders wait as on any network, and drops the
// rest.
func (d *Device) enqueue(pkt *stack.PacketBuffer) tcpip.Error {
	brief := isBriefPacket(pkt) // once it is queued its reader may take it apart
	if f := flowFor(pkt); f != nil && d.manage(f, pkt) {
		d.active(brief)
		d.tellReady()
		return nil
	}
	queued, err := d.push(pkt)
	if queued {
		d.active(brief)
	}
	if queued && !(d.corks.Load() > 0 && pkt.TransportProtocolNumber == header.UDPProtocolNumber && d.Waiting() < maxCorked) {
		d.tellReady()
	}
	return err
}

func (d *Device) tellReady() {
	if ready := d.ready.Load(); ready != nil {
		(*ready)()
	}
}

// manage hands a packet over to its flow. It reports false for what does not wait for anything: that of a flow that has ended,
// and what has no data.
func (d *Device) manage(f *flow, pkt *stack.PacketBuffer) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	tcp := header.TCP(pkt.TransportHeader().Slice())
	flags := tcp.Flags()
	switch {
	case f.gone || d.closed || flags&header.TCPFlagSyn != 0:
		return false
	case f.passive:
		f.acknowledge(d.flows.now(), pkt.NetworkHeader().Slice(), tcp)
		return false
	case flags&header.TCPFlagRst != 0:
		f.reset(pkt.NetworkHeader().Slice(), tcp)
		d.flows.remove(f)
		return false
	case pkt.Data().Size() == 0 && flags&header.TCPFlagFin == 0:
		f.acknowledge(d.flows.now(), pkt.NetworkHeader().Slice(), tcp)
		return false
	}
	now := d.flows.now()
	if f.take(now, pkt.IncRef(), d.mtu) {
		d.flows.place(f, now)
	} else if f.shrunk {
		d.flows.regrow(f, now)
	}
	return true
}

// serveFlows is called by the timer of the flows.
func (d *Device) serveFlows() {
	d.mu.Lock()
	d.flows.serve(d.flows.now())
	ready, shrunk := d.flows.ready() > 0, d.flows.takeShrunk()
	d.mu.Unlock()
	if ready {
		d.tellReady()
	}
	for _, f := range shrunk {
		f.regrow()
	}
}

// received shows a flow a TCP packet of its peer's, whose TCP header is packet[l4:hdr]. It reports whether gVisor is to see
// it too.
func (d *Device) received(packet []byte, l4, hdr int) (show bool) {
	id := inboundID(packet, l4)
	d.mu.Lock()
	f := d.flows.byID[id]
	if f == nil {
		d.mu.Unlock()
		return true
	}
	defer d.mu.Unlock()
	return d.flows.received(d.flows.now(), f, header.TCP(packet[l4:hdr]), len(packet)-hdr)
}

// addFlow has the device manage what a connection sends.
func (d *Device) addFlow(f *flow) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.flows.add(f)
	}
}

// PathChanged tells that packets to the addresses that matches names take another path from now on.
func (s *Stack) PathChanged(matches func(netip.Addr) bool) {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	now := s.dev.flows.now()
	for _, f := range s.dev.flows.byID {
		if !matches(f.remote) {
			continue
		}
		f.clock.pathChanged(now)
		if f.snd != nil {
			f.snd.PathChanged(now)
			s.dev.flows.place(f, now)
		}
	}
}

// endFlow gives up the flow of a connection that gVisor has given up.
func (d *Device) endFlow(f *flow) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flows.remove(f)
}

// push reports false if there is no more to read than before: the packet is refused, or waits.
func (d *Device) push(pkt *stack.PacketBuffer) (queued bool, err tcpip.Error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.queued >= maxQueued && !d.closed {
		if !waits(pkt.TransportProtocolNumber) {
			d.drops.Add(1)
			return false, &tcpip.ErrNoBufferSpace{}
		}
		d.room.Wait()
	}
	if d.closed {
		return false, &tcpip.ErrClosedForSend{}
	}
	if pkt.TransportProtocolNumber == header.TCPProtocolNumber && d.holdLocked(pkt) {
		return false, nil
	}
	d.pushLocked(pkt.IncRef())
	return true, nil
}

// holdLocked reports whether a TCP packet is an acknowledgement that waits.
func (d *Device) holdLocked(pkt *stack.PacketBuffer) bool {
	p := ackerOf(pkt)
	var now time.Duration
	if p.kind == ackOnly {
		now = d.flows.now()
	}
	first, held := d.acks.take(&p, pkt, now)
	if first != nil {
		d.pushLocked(first)
	}
	if held {
		d.lookByLocked(d.acks.flows[p.id.place()].due, now)
	}
	return held
}

// lookByLocked has lookAfterAcks called at a time, or before.
func (d *Device) lookByLocked(at, now time.Duration) {
	if d.looks != 0 && at >= d.looks {
		return
	}
	d.looks = at
	if d.look == nil {
		d.look = d.flows.clock.AfterFunc(at-now, d.lookAfterAcks)
		return
	}
	d.look.Reset(at - now)
}

// lookAfterAcks sends the acknowledgements that have waited for long enough.
func (d *Device) lookAfterAcks() {
	if d.releaseAcks() {
		d.tellReady()
	}
}

// releaseAcks reports whether there is more to read than before.
func (d *Device) releaseAcks() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, before := d.flows.now(), d.queue.n
	d.looks = 0
	if next := d.acks.overdue(now, d.pushLocked); next != 0 {
		d.lookByLocked(next, now)
	}
	return d.queue.n > before
}

// pushLocked takes over a reference to pkt.
func (d *Device) pushLocked(pkt *stack.PacketBuffer) {
	d.queue.push(pkt)
	d.queued += cost(pkt)
}

func waits(p tcpip.TransportProtocolNumber) bool {
	return p == header.TCPProtocolNumber || p == header.UDPProtocolNumber
}

// cost is what a packet counts for in Device.queued.
func cost(pkt *stack.PacketBuffer) int { return pkt.Size() + packetOverhead }
