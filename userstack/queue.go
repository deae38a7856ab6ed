package userstack

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxQueued is the capacity of a queue in bytes. When it is full, TCP and UDP writers block, and
	// other packets are dropped.
	maxQueued = 256 << 10

	// corkLimit is how many queued bytes end the effect of Cork: a batch.
	corkLimit = 64 << 10

	// packetOverhead is added to the size of each queued packet, so that the number of small
	// packets is bounded too.
	packetOverhead = 512
)

// Queue holds the outbound packets to some of the remote addresses. gVisor appends packets from any
// of its goroutines and then calls ready, which must arrange for a Read. Queues share no lock.
type Queue struct {
	d     *Device
	ready atomic.Pointer[func()] // see Notify

	mu          sync.Mutex
	packets     ring[*stack.PacketBuffer]
	queuedBytes int       // cost of packets; see queueCost
	room        sync.Cond // on mu; queuedBytes has fallen below maxQueued, or closed is set
	flows       flows
	reclaimer   idleReclaimer
	report      trafficReport
	acks        delayedAcks
	ackTimer    tcpip.Timer   // calls ackTimerFired; nil until first needed
	ackTimerAt  time.Duration // when ackTimer fires; 0 means that it does not
	closed      bool

	segmenter segmenter // owned by Read
}

func newQueue(d *Device, clock tcpip.Clock) *Queue {
	q := &Queue{d: d}
	q.flows.init(clock, &q.acks, q.serveFlows)
	q.reclaimer.q, q.report.q = q, q
	q.room.L = &q.mu
	// The payload of a full packet with the longest headers.
	q.acks.full = uint32(max(d.mtu-header.IPv6MinimumSize-header.TCPHeaderMaximumSize, 1))
	return q
}

// Notify sets ready, which is called whenever there are packets to read, and at once if there are
// some already. The caller of ready may hold locks of gVisor, so ready must not write to the
// device.
func (q *Queue) Notify(ready func()) {
	q.ready.Store(&ready)
	if q.Waiting() > 0 {
		ready()
	}
}

// Waiting is how many bytes there are to read, including packetOverhead.
func (q *Queue) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queuedBytes + q.flows.ready()
}

// Read fills bufs with whole IP packets, each from offset on, and returns their number. It does not
// block. Only one goroutine may read at a time.
func (q *Queue) Read(bufs [][]byte, sizes []int, offset int) (n int) {
	n = q.readPackets(bufs, sizes, offset)
	if n == len(bufs) {
		return n
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.flows.now()
	m := q.flows.read(now, bufs[n:], sizes[n:], offset)
	q.report.noteLocked(now, m)
	return n + m
}

// readPackets reads the packets whose sending no flow controls: SYNs, resets, pure
// acknowledgements, packets other than TCP, and under CUBIC everything.
func (q *Queue) readPackets(bufs [][]byte, sizes []int, offset int) (n int) {
	for n < len(bufs) {
		if q.segmenter.empty() {
			pkt := q.pop()
			if pkt == nil {
				return n
			}
			q.segmenter.load(pkt)
		}
		for q.segmenter.hasPartial() {
			pkt := q.popContinuation()
			if pkt == nil {
				break
			}
			q.segmenter.join(pkt)
		}
		size := q.segmenter.next(bufs[n][offset:])
		if size == 0 {
			continue // too long for the buffer; counted by the segmenter
		}
		sizes[n] = size
		n++
	}
	return n
}

func (q *Queue) pop() *stack.PacketBuffer {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.popLocked()
}

// popContinuation is pop if the first packet continues the one that is being cut, otherwise nil.
func (q *Queue) popContinuation() *stack.PacketBuffer {
	q.mu.Lock()
	defer q.mu.Unlock()
	if pkt := q.packets.first(); pkt == nil || !q.segmenter.continues(pkt) {
		return nil
	}
	return q.popLocked()
}

func (q *Queue) popLocked() *stack.PacketBuffer {
	pkt := q.packets.pop()
	if pkt == nil {
		return nil
	}
	full := q.queuedBytes >= maxQueued
	q.queuedBytes -= queueCost(pkt)
	if full && q.queuedBytes < maxQueued {
		q.room.Broadcast()
	}
	return pkt
}

// enqueue appends a packet for Read. A full queue blocks TCP and UDP, and drops other packets.
func (q *Queue) enqueue(pkt *stack.PacketBuffer) tcpip.Error {
	kind := trafficOfBuffer(pkt) // now, because the reader of the queue may take the packet apart
	if f := flowFor(pkt); f != nil && q.manage(f, pkt) {
		q.d.tell(kind)
		q.tellReady()
		return nil
	}
	queued, err := q.push(pkt)
	if queued {
		q.d.tell(kind)
	}
	if queued && !q.isCorked(pkt) {
		q.tellReady()
	}
	return err
}

// isCorked reports whether a packet that was just queued may wait for Uncork.
func (q *Queue) isCorked(pkt *stack.PacketBuffer) bool {
	return q.d.corked.Load() > 0 && pkt.TransportProtocolNumber == header.UDPProtocolNumber && q.Waiting() < corkLimit
}

// notifyIfReadable calls ready if there is anything to read.
func (q *Queue) notifyIfReadable() {
	if q.Waiting() > 0 {
		q.tellReady()
	}
}

// tellReady calls ready, if Notify has set it.
func (q *Queue) tellReady() {
	if ready := q.ready.Load(); ready != nil {
		(*ready)()
	}
}

// manage passes a packet to its flow. It reports false if the packet must leave at once: it has no
// data, or its flow has ended or does not control the sending.
func (q *Queue) manage(f *tcpFlow, pkt *stack.PacketBuffer) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	tcp := header.TCP(pkt.TransportHeader().Slice())
	flags := tcp.Flags()
	switch {
	case f.ended || q.closed || flags&header.TCPFlagSyn != 0:
		return false
	case f.measureOnly:
		if pkt.Data().Size() > 0 {
			f.lastUse.sent = q.flows.now()
		}
		f.passAck(q.flows.now(), pkt.NetworkHeader().Slice(), tcp)
		return false
	case flags&header.TCPFlagRst != 0:
		f.passReset(pkt.NetworkHeader().Slice(), tcp)
		q.flows.remove(f)
		return false
	case pkt.Data().Size() == 0 && flags&header.TCPFlagFin == 0:
		f.passAck(q.flows.now(), pkt.NetworkHeader().Slice(), tcp)
		return false
	}
	now := q.flows.now()
	if !f.enqueue(now, pkt.IncRef(), q.d.mtu) && f.windowLost {
		q.flows.restoreWindow(f, now)
	}
	q.flows.schedule(f, now)
	return true
}

// serveFlows is called by the timer of the flows.
func (q *Queue) serveFlows() {
	q.mu.Lock()
	q.flows.serve(q.flows.now())
	ready, shrunk := q.flows.ready() > 0, q.flows.takeWindowLost()
	q.mu.Unlock()
	if ready {
		q.tellReady()
	}
	for _, f := range shrunk {
		f.restoreWindow()
	}
}

// received shows an inbound TCP packet to its flow. The TCP header is packet[l4:hdr]. It reports
// whether gVisor must see the packet too.
func (q *Queue) received(packet []byte, l4, hdr int) (show bool) {
	id := inboundID(packet, l4)
	q.mu.Lock()
	f := q.flows.byID[id]
	if f == nil {
		q.mu.Unlock()
		return true
	}
	defer q.mu.Unlock()
	return q.flows.received(q.flows.now(), f, header.TCP(packet[l4:hdr]), len(packet)-hdr)
}

// addFlow adds the flow of a new connection.
func (q *Queue) addFlow(f *tcpFlow) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.flows.add(f)
	}
}

// pathChanged implements [Stack.PathChanged].
func (q *Queue) pathChanged(matches func(netip.Addr) bool) {
	defer q.notifyIfReadable() // a flow may send more at once on the new path
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.flows.now()
	for _, f := range q.flows.byID {
		if !matches(f.remote) {
			continue
		}
		f.clock.pathChanged(now)
		if f.snd != nil {
			f.snd.PathChanged(now)
			q.flows.schedule(f, now)
		}
	}
}

// pathBack implements [Stack.PathBack].
func (q *Queue) pathBack(matches func(netip.Addr) bool) {
	defer q.notifyIfReadable()
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.flows.now()
	for _, f := range q.flows.byID {
		if f.snd != nil && matches(f.remote) {
			f.snd.Retry(now)
			q.flows.schedule(f, now)
		}
	}
}

// endFlow removes the flow of a connection that gVisor has given up.
func (q *Queue) endFlow(f *tcpFlow) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flows.remove(f)
}

// push appends a packet. It reports false if there is no more to read than before, because the
// packet was dropped or is a delayed acknowledgement.
func (q *Queue) push(pkt *stack.PacketBuffer) (queued bool, err tcpip.Error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.queuedBytes >= maxQueued && !q.closed {
		if !blocksWriter(pkt.TransportProtocolNumber) {
			q.d.queueFull.Add(1)
			return false, &tcpip.ErrNoBufferSpace{}
		}
		q.room.Wait()
	}
	if q.closed {
		return false, &tcpip.ErrClosedForSend{}
	}
	if pkt.TransportProtocolNumber == header.TCPProtocolNumber && q.holdAckLocked(pkt) {
		return false, nil
	}
	q.pushLocked(pkt.IncRef())
	return true, nil
}

// holdAckLocked reports whether a TCP packet is an acknowledgement that is delayed.
func (q *Queue) holdAckLocked(pkt *stack.PacketBuffer) bool {
	p := ackInfoOf(pkt)
	var now time.Duration
	if p.kind == pureAck {
		now = q.flows.now()
	}
	first, held := q.acks.offer(&p, pkt, now)
	if first != nil {
		q.pushLocked(first)
	}
	if held {
		q.setAckTimerLocked(q.acks.flows[p.id.slot()].due, now)
	}
	return held
}

// setAckTimerLocked sets the timer to at, unless it fires earlier.
func (q *Queue) setAckTimerLocked(at, now time.Duration) {
	if q.ackTimerAt != 0 && at >= q.ackTimerAt {
		return
	}
	q.ackTimerAt = at
	if q.ackTimer == nil {
		q.ackTimer = q.flows.clock.AfterFunc(at-now, q.ackTimerFired)
		return
	}
	q.ackTimer.Reset(at - now)
}

// ackTimerFired sends the delayed acknowledgements that are due.
func (q *Queue) ackTimerFired() {
	if q.sendDueAcks() {
		q.tellReady()
	}
}

// sendDueAcks appends the acknowledgements that are due and reports whether there were any.
func (q *Queue) sendDueAcks() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now, before := q.flows.now(), q.packets.n
	q.ackTimerAt = 0
	if next := q.acks.releaseDue(now, q.pushLocked); next != 0 {
		q.setAckTimerLocked(next, now)
	}
	return q.packets.n > before
}

// pushLocked takes over a reference to pkt.
func (q *Queue) pushLocked(pkt *stack.PacketBuffer) {
	q.packets.push(pkt)
	q.queuedBytes += queueCost(pkt)
}

// close unblocks writers and drops queued packets.
func (q *Queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for pkt := q.packets.pop(); pkt != nil; pkt = q.packets.pop() {
		pkt.DecRef()
	}
	q.queuedBytes = 0
	q.flows.close()
	q.reclaimer.stopLocked()
	q.report.stopLocked()
	q.acks.dropAll()
	if q.ackTimer != nil {
		q.ackTimer.Stop()
	}
	q.room.Broadcast()
}

// blocksWriter reports whether packets of a protocol wait while the queue is full.
func blocksWriter(p tcpip.TransportProtocolNumber) bool {
	return p == header.TCPProtocolNumber || p == header.UDPProtocolNumber
}

// queueCost is what a packet adds to Queue.queuedBytes.
func queueCost(pkt *stack.PacketBuffer) int { return pkt.Size() + packetOverhead }
