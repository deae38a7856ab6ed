package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/things-go/go-socks5/statute"
)

// association is a UDP ASSOCIATE of RFC 1928 section 7. It receives datagrams with a header from
// the client on local and sends them without it on far, and the other way round. Three goroutines
// serve it: one per direction, and one that waits for the end of the control connection.
//
// It has no queue: if datagrams arrive faster than they can be sent, the receiving socket drops
// them.
type association struct {
	srv     *Server
	control *conn
	local   *net.UDPConn
	localIn *hostSource    // of local
	far     net.PacketConn // in the network behind the proxy
	farIn   packetSource   // of far
	farCork corker         // of far; nil if it is none
	entry   entry

	sent, received meter
	client         atomic.Pointer[netip.AddrPort] // the only source allowed on local; port 0: not known yet
	usage
	open    atomic.Int32 // goroutines that have not ended
	closed  atomic.Bool
	failure firstError
}

var (
	// errIdle ends an association that has carried nothing for IdleTimeout.
	errIdle = errors.New("idle timeout: no datagrams")

	// errEvicted ends an association or a UDP session that had to make room for a new one.
	errEvicted = errors.New("evicted: too many UDP associations")
)

// associate starts an association. If that fails it sends a reply that says why and closes c.
func (c *conn) associate(announced *statute.AddrSpec) {
	var r socks5Replies
	e := entry{protocol: protoSOCKS5UDP, started: time.Now()}
	as, err := c.newAssociation(announced)
	if err != nil {
		c.log(e, err)
		c.lingerClose(r.refused(err))
		return
	}
	as.entry = e
	if _, err := c.Write(r.granted(as.local.LocalAddr())); err != nil {
		c.log(e, err)
		c.Close()
		return
	}
	as.start()
}

// newAssociation opens the sockets of an association, which are closed together with c. announced
// is DST.ADDR and DST.PORT of the request.
func (c *conn) newAssociation(announced *statute.AddrSpec) (*association, error) {
	s := c.srv
	local, client := addrPortOf(c.LocalAddr()).Addr(), addrPortOf(c.RemoteAddr()).Addr()
	if s.ListenPacket == nil || !local.IsValid() || !client.IsValid() {
		// A client on a unix socket has no address by which its datagrams could be recognized.
		return nil, errCommand
	}
	as := &association{srv: s, control: c}
	as.touch()
	evicted, ok := s.udp.associations.add(as, client, s.maxAssociations())
	if !ok {
		return nil, errTooMany
	}
	if evicted != nil {
		evicted.failure.set(errEvicted)
		evicted.control.Close()
	}
	s.counters.openAssociations.Add(1)
	as.sent.total, as.received.total = &s.counters.sent, &s.counters.received
	as.client.Store(new(clientOf(announced, client)))
	_, err := dial(c, "udp", func(ctx context.Context) (*association, error) { return as, as.listen(ctx, local) })
	if err != nil {
		as.Close()
		return nil, err
	}
	return as, nil
}

// listen opens the two sockets. The one for the client has the IP address of the control
// connection.
func (a *association) listen(ctx context.Context, local netip.Addr) (err error) {
	if a.local, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))); err != nil {
		return err
	}
	if a.localIn, err = a.srv.newHostSource(a.local); err != nil {
		return err
	}
	if a.far, err = a.srv.ListenPacket(ctx); err != nil {
		return err
	}
	a.farIn = newSlottedSource(a.far)
	a.farCork, _ = a.far.(corker)
	return nil
}

// clientOf returns the address of the client's UDP socket, with port 0 if the port is not known
// before its first datagram. ip is the source of the control connection. DST.ADDR and DST.PORT of
// the request "contain the address and port that the client expects to use to send UDP datagrams"
// (RFC 1928 section 4). The port is used if DST.ADDR is unspecified or equal to ip. If it is
// another address, a NAT has translated it, and may have translated the port too.
func clientOf(announced *statute.AddrSpec, ip netip.Addr) netip.AddrPort {
	addr, ok := netip.AddrFromSlice(announced.IP)
	addr = addr.Unmap()
	if ok && (addr.IsUnspecified() || addr == ip.WithZone("")) {
		return netip.AddrPortFrom(ip, uint16(announced.Port))
	}
	return netip.AddrPortFrom(ip, 0)
}

func (a *association) start() {
	a.open.Store(3)
	wg := &a.srv.live.wg
	wg.Go(a.awaitEnd)
	wg.Go(a.send)
	wg.Go(a.receive)
}

// Close closes the sockets that are open. It does not wait for the goroutines.
func (a *association) Close() error {
	if a.closed.Swap(true) {
		return nil
	}
	a.srv.udp.associations.remove(a)
	a.srv.counters.openAssociations.Add(-1)
	if a.local != nil {
		a.local.Close()
	}
	if a.far != nil {
		a.far.Close()
	}
	return nil
}

// ended is called when one of the goroutines ends. It makes the others end.
func (a *association) ended(err error) {
	a.failure.set(err)
	a.control.Close()
	if a.open.Add(-1) > 0 {
		return
	}
	a.entry.sent, a.entry.received = a.sent.n.Load(), a.received.n.Load()
	a.control.log(a.entry, a.failure.get())
}

// awaitEnd returns when the control connection has ended or the association has been idle for
// IdleTimeout: "A UDP association terminates when the TCP connection that the UDP ASSOCIATE request
// arrived on terminates". Input on the control connection is discarded.
func (a *association) awaitEnd() {
	buf := make([]byte, 64)
	for {
		a.control.SetReadDeadline(time.Now().Add(a.srv.idleTimeout()))
		_, err := a.control.Conn.Read(buf)
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			a.ended(nil)
			return
		case !a.active.Swap(false):
			a.ended(errIdle)
			return
		}
	}
}

// send sends the client's datagrams to the network behind the proxy.
func (a *association) send() {
	var dst Addr
	for {
		if err := a.sendBatch(&dst); err != nil {
			a.ended(err)
			return
		}
	}
}

// sendBatch waits for datagrams of the client and sends them. After an error no further datagram
// can be received. dst is scratch space.
func (a *association) sendBatch(dst *Addr) error {
	if err := a.localIn.wait(); err != nil {
		return err
	}
	batch := a.srv.udp.batches.get(a.localIn)
	defer batch.free()
	if err := a.localIn.receive(batch); err != nil {
		return err
	}
	corked(a.farCork, func() {
		sent := 0
		for i, b := range batch.data {
			sent += a.sendOne(b, batch.from[i], dst)
		}
		if sent > 0 {
			a.touch()
			a.srv.counters.datagramsSent.Add(uint64(sent))
		}
	})
	return nil
}

// sendOne sends one datagram and returns 1, or drops it and returns 0.
func (a *association) sendOne(b []byte, from netip.AddrPort, dst *Addr) int {
	client := a.client.Load()
	if from.Addr() != client.Addr() || client.Port() != 0 && from.Port() != client.Port() {
		a.drop(1)
		return 0
	}
	header, err := parseDatagram(b, dst)
	if err != nil {
		a.drop(1)
		return 0
	}
	if client.Port() == 0 {
		a.client.Store(new(from))
	}
	if _, err := a.far.WriteTo(b[header:], dst); err != nil {
		a.drop(1)
		return 0
	}
	a.sent.add(int64(len(b) - header))
	return 1
}

// maxFarErrors is the number of consecutive errors of the far socket that end an association.
// Single errors may be the consequence of an earlier datagram, such as an ICMP port unreachable.
const maxFarErrors = 100

// receive sends the datagrams of the network behind the proxy to the client.
func (a *association) receive() {
	for failed := 0; ; {
		err := a.receiveBatch()
		if err == nil {
			failed = 0
			continue
		}
		if failed++; failed == maxFarErrors || errors.Is(err, net.ErrClosed) {
			a.ended(err)
			return
		}
	}
}

// receiveBatch waits for datagrams on far and sends them to the client. Later calls may succeed
// after an error.
func (a *association) receiveBatch() error {
	if err := a.farIn.wait(); err != nil {
		return err
	}
	batch := a.srv.udp.batches.get(a.farIn)
	defer batch.free()
	if err := a.farIn.receive(batch); err != nil {
		return err
	}
	client, headers := a.client.Load(), 0
	batch.out = batch.out[:0]
	for i, b := range batch.data {
		src := netip.AddrPortFrom(batch.from[i].Addr().Unmap(), batch.from[i].Port())
		if !src.IsValid() || client.Port() == 0 {
			a.drop(1)
			continue
		}
		var scratch [datagramHeader]byte
		batch.out = append(batch.out, batch.withHeader(i, appendDatagramHeader(scratch[:0], src)))
		headers += len(batch.out[len(batch.out)-1]) - len(b)
	}
	if len(batch.out) == 0 {
		return nil
	}
	sent, err := a.localIn.sock.Send(batch.out, *client)
	a.drop(len(batch.out) - sent.Datagrams)
	if sent.Datagrams == 0 || err != nil {
		return nil
	}
	a.touch()
	a.srv.counters.datagramsReceived.Add(uint64(sent.Datagrams))
	// If only some were sent, the size of their headers is estimated by the average.
	a.received.add(int64(sent.Bytes - headers*sent.Datagrams/len(batch.out)))
	return nil
}

func (a *association) drop(n int) { a.srv.counters.datagramsDropped.Add(uint64(n)) }
