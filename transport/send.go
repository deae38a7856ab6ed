package transport

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// errNoPath is returned for a packet to a peer without a direct path and without a relay.
var errNoPath = errors.New("transport: no path to peer")

// Send sends messages of WireGuard to a peer by its current path, or to an address. Over UDP, lane
// i uses socket i modulo the number of sockets, so lanes do not wait for each other. All sockets
// have the same port, so the receiver sees no difference.
func (c *Conn) Send(lane int, messages [][]byte, to conn.Endpoint) error {
	switch ep := to.(type) {
	case *endpoint:
		return c.sendToPeer(lane, messages, ep)
	case *address:
		c.addressSends.note()
		return c.sendDatagrams(lane, messages, ep.AddrPort)
	}
	return conn.ErrWrongEndpointType
}

// sendWatch tells one goroutine about the first send after it asked. So the goroutine needs no
// timer while nothing is sent.
type sendWatch struct {
	armed atomic.Bool
	sentc chan struct{} // capacity 1
}

// note is called for each send.
func (w *sendWatch) note() {
	if !w.armed.Load() || !w.armed.CompareAndSwap(true, false) {
		return
	}
	select {
	case w.sentc <- struct{}{}:
	default: // it has not taken the item of an earlier send yet
	}
}

// WatchAddressSends returns a channel that gets an item at the next send to an address, i.e. to a
// peer that speaks plain WireGuard. One goroutine may use it, and calls it again after each item.
// The channel may get one item too many.
func (c *Conn) WatchAddressSends() <-chan struct{} {
	c.addressSends.armed.Store(true)
	return c.addressSends.sentc
}

// sendToPeer sends by the peer's present route.
func (c *Conn) sendToPeer(lane int, bufs [][]byte, e *endpoint) error {
	if !e.sent.Load() {
		e.sent.Store(true)
	}
	if !e.awake.Load() {
		c.wakePeer(e)
	}
	r := e.route.Load()
	if r.relay && len(bufs) == 1 && isInitiation(bufs[0]) {
		e.crossing.sent(time.Now())
	}
	direct := errNoPath
	if r.direct.IsValid() {
		if direct = c.sendDatagrams(lane, bufs, r.direct); direct != nil {
			c.tell(sendFailed{e, r.direct, direct})
		}
	}
	if c.cfg.Relay == nil || direct == nil && !r.relay {
		return direct
	}
	relayed := c.cfg.Relay.Send(r.region, e.key, bufs)
	if direct == nil {
		return nil
	}
	return relayed
}

// sendDatagrams sends over UDP. It counts the datagrams that the kernel drops for want of room.
func (c *Conn) sendDatagrams(lane int, bufs [][]byte, to netip.AddrPort) error {
	sock := c.groupFor(to).lane(lane)
	if sock == nil {
		return &net.OpError{Op: "write", Net: "udp", Addr: net.UDPAddrFromAddrPort(to), Err: errNoFamily}
	}
	sent, err := sock.Send(bufs, to)
	if lost := len(bufs) - sent.Datagrams; lost > 0 && err == nil {
		c.counters.udpSendDrops.Add(uint64(lost))
	}
	return err
}

var errNoFamily = errors.New("no socket of this address family")
