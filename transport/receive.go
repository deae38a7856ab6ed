package transport

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"ginnel/internal/sys"
	"ginnel/key"
)

const (
	// receiveSlots is how many rows one system call reads. A row is one datagram, or several of one
	// sender that the kernel has joined (UDP_GRO).
	receiveSlots = 8

	// maxMessages is how many messages WireGuard gets in one call: one row, or several short ones.
	maxMessages = 64
)

// receiveFunc is the function of WireGuard that takes messages of one sender. It may change them
// until it returns.
type receiveFunc = func(messages [][]byte, from conn.Endpoint)

var errOpen = errors.New("transport: open already")

// Open starts the receivers, which pass WireGuard messages to receive. Calls of receive run
// concurrently: one for each socket, one for each caller of HandleRelayed, and one for each
// initiation that was held back. Disco and STUN use the same sockets, so discovery begins with
// Open. Open can be called once.
func (c *Conn) Open(receive func(messages [][]byte, from conn.Endpoint)) error {
	if c.isClosed() {
		return net.ErrClosed
	}
	if !c.receive.CompareAndSwap(nil, &receive) {
		return errOpen
	}
	for _, s := range c.sockets() {
		r := &receiver{c: c, sock: s, take: receive, batch: sys.NewBatch(receiveSlots)}
		c.wg.Go(r.run)
	}
	return nil
}

// receiver reads one socket. It takes out disco and STUN and gives WireGuard the rest.
type receiver struct {
	c     *Conn
	sock  *socket
	take  receiveFunc
	batch *sys.Batch
	seen  addressCache

	row      [][]byte
	messages [][]byte // for WireGuard, not passed on yet
	from     netip.AddrPort

	errs  int           // failed reads in a row
	delay time.Duration // before the last attempt
}

// run ends when the Conn is closed.
func (r *receiver) run() {
	for {
		err := r.sock.Receive(r.batch)
		switch {
		case r.c.isClosed(), errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			r.afterError(err)
		default:
			r.errs, r.delay = 0, 0
			r.sort()
			r.c.cfg.yield()
		}
	}
}

const (
	// quickReadErrors is how many failed reads in a row cause no pause: ICMP answers to datagrams that
	// we sent can cause them. After more, the socket itself is broken and is tried less and less
	// often.
	quickReadErrors = 100
	minReadDelay    = 5 * time.Millisecond
	maxReadDelay    = time.Second
)

// afterError waits until the socket is to be read again, or the Conn is closed.
func (r *receiver) afterError(err error) {
	r.c.counters.udpReceiveErrors.Add(1)
	if r.errs++; r.errs < quickReadErrors {
		return
	}
	if r.errs == quickReadErrors {
		r.c.log.Warn("UDP socket does not receive", "port", r.sock.port(), "err", err)
	}
	r.delay = min(max(2*r.delay, minReadDelay), maxReadDelay)
	t := time.NewTimer(r.delay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.c.closec:
	}
}

// sort passes on each datagram of the batch. It does not split a row, because a peer has sent it at
// once.
func (r *receiver) sort() {
	for {
		row, from, ok := r.batch.Next(r.row[:0])
		if !ok {
			r.flush()
			return
		}
		r.row = row
		if from != r.from || len(r.messages)+len(row) > maxMessages {
			r.flush()
			r.from = from
		}
		for _, b := range row {
			r.sortOne(b)
		}
	}
}

func (r *receiver) sortOne(b []byte) {
	switch class, geneve := classify(b); {
	case geneve:
		r.c.counters.geneve.Add(1) // peer relays are not used
	case class == classDisco:
		r.c.tellDisco(b, r.from)
	case class == classSTUN:
		r.c.tellSTUN(b)
	default:
		r.messages = append(r.messages, b)
	}
}

func (r *receiver) flush() {
	if len(r.messages) > 0 {
		r.take(r.messages, r.seen.get(r.from))
		r.messages = r.messages[:0]
	}
}

// HandleRelayed takes packets of a peer that a relay delivered. It returns when WireGuard has
// processed them, so TCP slows down a relay that is faster; no packets are dropped here. It may
// change the packets.
func (c *Conn) HandleRelayed(region int, from key.NodePublic, packets [][]byte) {
	e := c.endpointOf(from)
	if e == nil {
		c.counters.relayedUnknown.Add(uint64(len(packets)))
		return
	}
	for len(packets) > 0 {
		n, isDisco := 0, false
		for ; n < len(packets); n++ {
			if isDisco = isRelayedDisco(packets[n]); isDisco || !c.passHandshake(e, packets[n]) {
				break
			}
		}
		c.takeRelayed(e, packets[:n])
		if isDisco {
			c.tellRelayedDisco(packets[n], region, from)
		}
		packets = packets[min(n+1, len(packets)):]
	}
	c.cfg.yield()
}

// takeRelayed gives packets to WireGuard if Open was called.
func (c *Conn) takeRelayed(e *endpoint, packets [][]byte) {
	receive := c.receive.Load()
	if receive == nil || c.isClosed() {
		c.counters.relayedClosed.Add(uint64(len(packets)))
		return
	}
	for len(packets) > 0 {
		n := min(len(packets), maxMessages)
		(*receive)(packets[:n], e)
		packets = packets[n:]
	}
}

// isRelayedDisco tells disco from WireGuard in packets from relays. There are no other kinds, and
// no Geneve headers (disco specification, section 1.5).
func isRelayedDisco(b []byte) bool {
	class, geneve := classify(b)
	return class == classDisco && !geneve
}
