package transport

import (
	"container/heap"
	"crypto/rand"
	mrand "math/rand/v2"
	"net/netip"
	"time"

	"ginnel/internal/disco"
	"ginnel/key"
)

// callPatience is how long a CallMeMaybe waits for STUN. Then it is sent with the endpoints known.
const callPatience = 500 * time.Millisecond

// Messages to the loop, besides disco and STUN (discoqueue.go).
type (
	// wake says that traffic to a peer has begun.
	wake struct{ e *endpoint }
	// sendFailed says that a send on a direct path failed.
	sendFailed struct {
		e    *endpoint
		addr netip.AddrPort
		err  error
	}
	// call is run by the loop; done is closed after it.
	call struct {
		f    func(*loop)
		done chan struct{}
	}
)

// tell passes a message to the loop if its queue has room.
func (c *Conn) tell(m any) bool {
	select {
	case c.msgc <- m:
		return true
	default:
		c.counters.loopFull.Add(1)
		return false
	}
}

// wakePeer tells the loop that traffic to a peer has begun, unless it knows.
func (c *Conn) wakePeer(e *endpoint) {
	if e.awake.CompareAndSwap(false, true) && !c.tell(wake{e}) {
		e.awake.Store(false) // the next send tries again
	}
}

// call has the loop run f and waits for that. It reports false if the Conn is closed.
func (c *Conn) call(f func(*loop)) bool {
	m := call{f, make(chan struct{})}
	select {
	case c.msgc <- m:
	case <-c.closec:
		return false
	}
	select {
	case <-m.done:
		return true
	case <-c.closec:
		return false
	}
}

// loop owns the peers and all state that changes slowly. Only its goroutine touches it.
type loop struct {
	c       *Conn
	nodeKey key.NodePublic // our own
	peers   map[key.NodePublic]*peer
	byDisco map[key.DiscoPublic][]*peer // several nodes may share a disco key
	due     dueHeap                     // peers whose path needs a tick at some time
	waiting map[disco.TxID]chan<- PingResult

	prober   prober
	nextSTUN time.Time // of the periodic rounds; zero: none

	measuredAt time.Time // end of the last STUN round that watchers were told about
	local      []netip.Addr
	localAt    time.Time        // when local was read
	own        []netip.AddrPort // our endpoints, as peers are told

	calls   map[*peer]struct{} // peers to be sent a CallMeMaybe once our endpoints are known
	callsBy time.Time          // when they are sent at the latest
}

// peer is a peer as the loop knows it.
type peer struct {
	Peer
	ep   *endpoint
	path *path
	used netip.AddrPort // where packets go; invalid: to the relay

	quality  quality
	compared netip.AddrPort // the direct path that quality has measured

	greeted time.Time // when the peer was last reported as back

	at    time.Time // when path.tick is due; see dueHeap
	index int       // in the heap, -1 outside
}

func newLoop(c *Conn) *loop {
	return &loop{
		c:       c,
		nodeKey: c.cfg.NodeKey,
		peers:   make(map[key.NodePublic]*peer),
		byDisco: make(map[key.DiscoPublic][]*peer),
		waiting: make(map[disco.TxID]chan<- PingResult),
		calls:   make(map[*peer]struct{}),
		prober:  prober{txid: randomID[stunTxID]},
	}
}

// randomID makes a transaction id. An answer with these 96 random bits proves that the request
// arrived.
func randomID[ID ~[12]byte]() (id ID) {
	rand.Read(id[:])
	return id
}

func (l *loop) run() {
	l.readLocal(time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case m := <-l.c.msgc:
			l.handle(time.Now(), m)
		case <-timer.C:
		case <-l.c.closec:
			return
		}
		now := time.Now()
		l.tick(now)
		if next := l.next(); !next.IsZero() {
			timer.Reset(max(0, next.Sub(now)))
		} else {
			timer.Stop()
		}
	}
}

func (l *loop) handle(now time.Time, m any) {
	switch m := m.(type) {
	case discoPacket:
		m.by.queued.Add(-1)
		l.handleDisco(now, m)
	case stunPacket:
		l.handleSTUN(now, m)
	case wake:
		if p := l.peers[m.e.key]; p != nil && p.ep == m.e {
			l.apply(now, p, l.activity(now, p))
		}
	case sendFailed:
		l.handleSendFailed(now, m)
	case report:
		l.handleReport(now, m)
	case call:
		m.f(l)
		close(m.done)
	default:
		panic("internal error: unknown message to the transport loop")
	}
}

func (l *loop) handleSendFailed(now time.Time, m sendFailed) {
	l.c.log.Debug("direct send failed", "peer", m.e.key, "addr", m.addr, "err", m.err)
	if p := l.peers[m.e.key]; p != nil && isUnreachable(m.err) {
		p.path.sendFailed(m.addr)
		l.apply(now, p, p.path.tick(now))
	}
}

// activity tells the path whether packets were sent since the last call.
func (l *loop) activity(now time.Time, p *peer) effects {
	if !p.ep.sent.Swap(false) {
		return effects{}
	}
	if p.path.active {
		return p.path.sent(now)
	}
	e := p.path.sent(now)
	l.wantSTUN(now)
	return e
}

// tick does everything that is due.
func (l *loop) tick(now time.Time) {
	for len(l.due) > 0 && !now.Before(l.due[0].at) {
		p := l.due[0]
		e := l.activity(now, p)
		e.merge(p.path.tick(now))
		if !p.path.active {
			p.ep.awake.Store(false)
			// Otherwise a send between the two lines above would not wake the loop.
			if p.ep.sent.Load() && p.ep.awake.CompareAndSwap(false, true) {
				e.merge(l.activity(now, p))
			}
		}
		l.apply(now, p, e)
	}
	l.sendSTUN(l.prober.tick(now))
	if !l.nextSTUN.IsZero() && !now.Before(l.nextSTUN) {
		l.nextSTUN = time.Time{}
		if l.anyActive() {
			l.startSTUN(now)
		}
	}
	l.afterSTUN(now)
	if len(l.calls) > 0 && !now.Before(l.callsBy) {
		l.callAll(now)
	}
}

// next returns when tick has something to do, zero for never.
func (l *loop) next() time.Time {
	t := firstTime(l.prober.next(), l.nextSTUN)
	if len(l.due) > 0 {
		t = firstTime(t, l.due[0].at)
	}
	if len(l.calls) > 0 {
		t = firstTime(t, l.callsBy)
	}
	return t
}

func (l *loop) anyActive() bool {
	for _, p := range l.due {
		if p.path.active {
			return true
		}
	}
	return false
}

// apply carries out the effects of a path, publishes its route and schedules its next tick.
func (l *loop) apply(now time.Time, p *peer, e effects) {
	for _, out := range e.pings {
		l.sendPing(p, out.addr, out.txid)
	}
	if e.callMeMaybe {
		l.wantCall(now, p)
	}
	l.publish(now, p)
	l.schedule(now, p)
}

// publish makes the decision of the path the route of packets.
func (l *loop) publish(now time.Time, p *peer) {
	direct, relay := p.path.route(now)
	p.quality.rest(now)
	if p.quality.relayed() {
		if relay || p.path.best.addr != p.compared {
			p.quality.reset() // the direct path that was measured does not exist any more
		} else {
			direct, relay = netip.AddrPort{}, true
		}
	}
	p.compared = p.path.best.addr
	r := route{direct: direct, relay: relay, region: p.Region}
	old := p.ep.route.Load()
	if *old == r {
		return
	}
	p.ep.route.Store(&r)
	if old.direct != r.direct || old.relay != r.relay {
		l.c.log.Debug("path changed", "peer", p.Key, "direct", r.direct, "relay", r.relay, "region", r.region)
	}
	// While packets take both paths, the previous path is one of them.
	if settled := !r.direct.IsValid() || !r.relay; settled && p.used != r.direct {
		p.used = r.direct
		if l.c.cfg.PathChanged != nil {
			l.c.cfg.PathChanged(p.Key)
		}
	}
	l.c.status.changed()
}

func (l *loop) schedule(now time.Time, p *peer) {
	p.at = p.path.next(now)
	switch {
	case p.at.IsZero() && p.index >= 0:
		heap.Remove(&l.due, p.index)
	case p.at.IsZero():
	case p.index >= 0:
		heap.Fix(&l.due, p.index)
	default:
		heap.Push(&l.due, p)
	}
}

// randomBetween keeps the periodic work of many nodes apart.
func randomBetween(low, high time.Duration) time.Duration { return low + mrand.N(high-low) }

// dueHeap orders peers by the time of their next tick. It implements heap.Interface.
type dueHeap []*peer

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	p := x.(*peer)
	p.index = len(*h)
	*h = append(*h, p)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	p := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	p.index = -1
	return p
}
