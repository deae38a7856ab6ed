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

// association is a UDP ASSOCIATE of RFC 1928 section 7: local takes datagrams with a header from
// the client, far sends them without it, and the same backwards. Three goroutines serve it: one per
// direction, and one that waits for the end of the control connection.
//
// No datagram is queued here. What comes faster than it can be passed on is dropped by the
// receiving socket.
type association struct {
	srv     *Server
	control *conn
	local   *net.UDPConn
	in      *hostInlet // of local
	far     net.PacketConn
	back    inlet // of far
	entry   entry

	sent, received meter
	client         atomic.Pointer[netip.AddrPort] // the only sender allowed; its port is 0 until it is known
	usage
	open    atomic.Int32 // goroutines that have not ended
	closed  atomic.Bool
	failure firstError
}

var (
	// errSilent ends an association that nobody uses.
	errSilent = errors.New("no datagram for too long")

	// errGaveWay ends one that has been idle when a new one needed its place.
	errGaveWay = errors.New("was idle, and there were too many associations")
)

// associate starts an association, or says why not and closes c.
func (c *conn) associate(announced *statute.AddrSpec) {
	var a socks5Answers
	e := entry{protocol: protoSOCKS5UDP, started: time.Now()}
	as, err := c.newAssociation(announced)
	if err != nil {
		c.log(e, err)
		c.part(a.refused(err))
		return
	}
	as.entry = e
	if _, err := c.Write(a.granted(as.local.LocalAddr())); err != nil {
		c.log(e, err)
		c.Close()
		return
	}
	as.start()
}

// newAssociation opens the sockets of an association, which are closed together with c.
func (c *conn) newAssociation(announced *statute.AddrSpec) (*association, error) {
	s := c.srv
	here, there := addrPortOf(c.LocalAddr()).Addr(), addrPortOf(c.RemoteAddr()).Addr()
	if s.ListenPacket == nil || !here.IsValid() || !there.IsValid() {
		// A client that came by a unix socket has no address to know its datagrams by.
		return nil, errCommand
	}
	as := &association{srv: s, control: c}
	as.touch()
	evicted, ok := s.udp.associations.add(as, there, s.maxAssociations())
	if !ok {
		return nil, errTooMany
	}
	if evicted != nil {
		evicted.failure.set(errGaveWay)
		evicted.control.Close()
	}
	s.counters.openAssociations.Add(1)
	as.sent.total, as.received.total = &s.counters.sent, &s.counters.received
	as.client.Store(new(clientOf(announced, there)))
	_, err := dial(c, "udp", func(ctx context.Context) (*association, error) { return as, as.listen(ctx, here) })
	if err != nil {
		as.Close()
		return nil, err
	}
	return as, nil
}

func (a *association) listen(ctx context.Context, here netip.Addr) (err error) {
	if a.local, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(here, 0))); err != nil {
		return err
	}
	if a.in, err = a.srv.hostInlet(a.local); err != nil {
		return err
	}
	if a.far, err = a.srv.ListenPacket(ctx); err != nil {
		return err
	}
	a.back = slottedInlet(a.far)
	return nil
}

// clientOf is what is known of the client's socket, on the host ip, before it has sent anything.
// DST.ADDR and DST.PORT "contain the address and port that the client expects to use to send UDP
// datagrams" (RFC 1928 section 4). They are believed if that address is none or the one that the
// control connection came from. Any other was translated on the way here, and its port may have
// been too.
func clientOf(announced *statute.AddrSpec, ip netip.Addr) netip.AddrPort {
	said, ok := netip.AddrFromSlice(announced.IP)
	said = said.Unmap()
	if ok && (said.IsUnspecified() || said == ip.WithZone("")) {
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

// Close closes the sockets, as far as they were opened.
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

// ended is called as each goroutine ends, and ends the others.
func (a *association) ended(err error) {
	a.failure.set(err)
	a.control.Close()
	if a.open.Add(-1) > 0 {
		return
	}
	a.entry.sent, a.entry.received = a.sent.n.Load(), a.received.n.Load()
	a.control.log(a.entry, a.failure.get())
}

// awaitEnd returns when the control connection has ended: "A UDP association terminates when the
// TCP connection that the UDP ASSOCIATE request arrived on terminates". What a client says there is
// discarded.
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
		case !a.moved.Swap(false):
			a.ended(errSilent)
			return
		}
	}
}

// send passes datagrams on to the network.
func (a *association) send() {
	var dst Addr
	for {
		if err := a.sendSome(&dst); err != nil {
			a.ended(err)
			return
		}
	}
}

// sendSome waits for datagrams. It returns an error only if there can be no further ones.
func (a *association) sendSome(dst *Addr) error {
	if err := a.in.await(); err != nil {
		return err
	}
	s := a.srv.udp.slabs.take(a.in)
	defer s.free()
	if err := a.in.receive(s); err != nil {
		return err
	}
	together(a.far, func() {
		sent := 0
		for i, b := range s.data {
			sent += a.sendOne(b, s.from[i], dst)
		}
		if sent > 0 {
			a.touch()
			a.srv.counters.datagramsSent.Add(uint64(sent))
		}
	})
	return nil
}

// sendOne returns how many datagrams it has sent: 1 or 0.
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

// maxFarErrors in a row end an association. Single ones may be what an earlier datagram has brought
// about.
const maxFarErrors = 100

// receive passes datagrams on to the client.
func (a *association) receive() {
	for failed := 0; ; {
		err := a.receiveSome()
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

// receiveSome is sendSome the other way, but an error may pass.
func (a *association) receiveSome() error {
	if err := a.back.await(); err != nil {
		return err
	}
	s := a.srv.udp.slabs.take(a.back)
	defer s.free()
	if err := a.back.receive(s); err != nil {
		return err
	}
	client, headers := a.client.Load(), 0
	s.out = s.out[:0]
	for i, b := range s.data {
		src := netip.AddrPortFrom(s.from[i].Addr().Unmap(), s.from[i].Port())
		if !src.IsValid() || client.Port() == 0 {
			a.drop(1)
			continue
		}
		// The data stays where it is; the header is put right before it.
		var scratch [datagramHeader]byte
		s.out = append(s.out, s.withHeader(i, appendDatagramHeader(scratch[:0], src)))
		headers += len(s.out[len(s.out)-1]) - len(b)
	}
	if len(s.out) == 0 {
		return nil
	}
	sent, err := a.in.sock.Send(s.out, *client)
	a.drop(len(s.out) - sent.Datagrams)
	if sent.Datagrams == 0 || err != nil {
		return nil
	}
	a.touch()
	a.srv.counters.datagramsReceived.Add(uint64(sent.Datagrams))
	a.received.add(int64(sent.Bytes - headers*sent.Datagrams/len(s.out))) // on average, if some are lost
	return nil
}

func (a *association) drop(n int) { a.srv.counters.datagramsDropped.Add(uint64(n)) }
