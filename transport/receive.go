package transport

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"ginnel/internal/key"
	"ginnel/internal/udpbatch"
)

const (
	// receiveSlots rows of datagrams that the kernel joined, or single ones, are read by one system
	// call.
	receiveSlots = 8

	// maxMessages are handed to WireGuard in one call: a row, or several small ones.
	maxMessages = 64
)

// receiveFunc is WireGuard's. It takes messages of one sender, and may change them until it
// returns.
type receiveFunc = func(messages [][]byte, from conn.Endpoint)

var errOpen = errors.New("transport: open already")

// Open has WireGuard given what comes, from then on. Calls of receive run beside each other: one
// for each socket, one for each caller of HandleRelayed, and one for each handshake that was held
// back. Disco and STUN arrive by the same sockets, so nothing is discovered before. Open can be
// called once.
func (c *Conn) Open(receive func(messages [][]byte, from conn.Endpoint)) error {
	if c.isClosed() {
		return net.ErrClosed
	}
	if !c.receive.CompareAndSwap(nil, &receive) {
		return errOpen
	}
	for _, s := range c.sockets() {
		r := &receiver{c: c, sock: s, take: receive, batch: udpbatch.NewBatch(receiveSlots)}
		c.wg.Go(r.run)
	}
	return nil
}

// receiver takes disco and STUN out of what a socket brings and gives WireGuard the rest.
type receiver struct {
	c     *Conn
	sock  *socket
	take  receiveFunc
	batch *udpbatch.Batch
	seen  addressCache

	row      [][]byte
	messages [][]byte // not yet given to WireGuard
	from     netip.AddrPort

	errs  int           // in a row
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
	// quickReadErrors in a row pass without a pause: they may be what datagrams that we sent have
	// provoked. Further ones are about the socket, which is tried again more and more slowly.
	quickReadErrors = 100
	minReadDelay    = 5 * time.Millisecond
	maxReadDelay    = time.Second
)

// afterError waits until it is worth reading again, or the Conn is closed.
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

// sort looks at each datagram of the batch. A row, which is what a peer has sent in one go, is not
// torn.
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

// HandleRelayed takes packets that a relay brought from a peer. It returns when WireGuard is done
// with them, so that a relay that is faster is slowed down by TCP instead of losing packets here.
// Packets may be changed.
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

// takeRelayed gives packets to WireGuard, if it listens.
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

// isRelayedDisco is the classification of packets from relays: naked disco or WireGuard, nothing
// else (disco specification, section 1.5).
func isRelayedDisco(b []byte) bool {
	class, geneve := classify(b)
	return class == classDisco && !geneve
}
