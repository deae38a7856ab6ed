package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"ginnel/internal/share"
)

const (
	// maxReadErrors is the number of consecutive errors after which a socket counts as broken. Single
	// errors are the consequence of an earlier datagram, such as an ICMP port unreachable.
	maxReadErrors = 100

	// maxQueued bounds the datagrams that one session queues while its destination is dialled.
	// maxQueuedBytes bounds the bytes that all sessions of one ForwardPackets queue. Further datagrams
	// are dropped.
	maxQueued      = 64
	maxQueuedBytes = 1 << 20

	// failedSessionTime is how long a session stays after its dial has failed. Meanwhile its datagrams
	// are dropped; otherwise each would cause a dial and a line in the log.
	failedSessionTime = time.Second
)

// ForwardPackets forwards datagrams that arrive on pc to one destination, and its answers back.
// Each client, which is an IP address and port, gets a session with a conn of its own, which dial
// opens. A session ends when nothing has passed for IdleTimeout. There are at most MaxAssociations
// sessions: a further one evicts one that is idle, or one of an address that has more; if there is
// none, the client's datagrams are dropped. Otherwise it is like Forward.
//
// If pc has the methods ReadFromUDPAddrPort and WriteToUDPAddrPort of *net.UDPConn, datagrams are
// forwarded without allocation.
func (s *Server) ForwardPackets(pc net.PacketConn, name string, dial DialFunc) error {
	defer pc.Close()
	source, err := s.newPacketSource(pc)
	if err != nil {
		return err
	}
	f := newUDPForward(s, pc, name, dial)
	return s.runUntilClosed(pc, func() error { return f.serve(source, pc.LocalAddr()) })
}

// datagrams has the methods of *net.UDPConn that do not allocate.
type datagrams interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
}

func datagramsOf(pc net.PacketConn) datagrams {
	if d, ok := pc.(datagrams); ok {
		return d
	}
	return allocatingDatagrams{pc}
}

// allocatingDatagrams makes datagrams of any net.PacketConn.
type allocatingDatagrams struct{ pc net.PacketConn }

// ReadFromUDPAddrPort returns an invalid address if the source is not an IP address.
func (d allocatingDatagrams) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, from, err := d.pc.ReadFrom(b)
	return n, addrPortOf(from), err
}

// WriteToUDPAddrPort implements datagrams.
func (d allocatingDatagrams) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	return d.pc.WriteTo(b, net.UDPAddrFromAddrPort(to))
}

// udpForward is one call of ForwardPackets. One goroutine reads from pc and writes to the
// destination. It has no queue for connected sessions: if datagrams arrive faster than they can be
// sent, the receiving socket drops them.
type udpForward struct {
	srv    *Server
	pc     datagrams
	cork   corker // of pc; nil if it is none
	name   string
	dial   DialFunc
	queued share.Budget[netip.Prefix] // bytes in the queues of the sessions, by the client's address

	mu       sync.Mutex
	sessions map[netip.AddrPort]*udpSession // by client; only serve's goroutine adds
	bySource share.Table[netip.Prefix, *udpSession]
}

func newUDPForward(s *Server, pc net.PacketConn, name string, dial DialFunc) *udpForward {
	cork, _ := pc.(corker)
	return &udpForward{srv: s, pc: datagramsOf(pc), cork: cork, name: name, dial: dial,
		queued: share.Budget[netip.Prefix]{Size: maxQueuedBytes}, sessions: make(map[netip.AddrPort]*udpSession)}
}

func (f *udpForward) serve(source packetSource, local net.Addr) error {
	for failed := 0; ; {
		err := f.receiveBatch(source)
		if f.srv.live.ended() {
			return errServerClosed
		}
		if err == nil {
			failed = 0
			continue
		}
		if failed++; failed == maxReadErrors || errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("proxy: receiving on %v: %w", local, err)
		}
	}
}

// receiveBatch waits for datagrams and forwards them. Consecutive ones of one client are forwarded
// together.
func (f *udpForward) receiveBatch(source packetSource) error {
	if err := source.wait(); err != nil {
		return err
	}
	batch := f.srv.udp.batches.get(source)
	defer batch.free()
	if err := source.receive(batch); err != nil {
		return err
	}
	for from, data := batch.from, batch.data; len(data) > 0; {
		n := 1
		for n < len(data) && from[n] == from[0] {
			n++
		}
		if s := f.session(netip.AddrPortFrom(from[0].Addr().Unmap(), from[0].Port())); s != nil {
			s.forward(data[:n])
		} else {
			f.drop(n)
		}
		from, data = from[n:], data[n:]
	}
	return nil
}

func (f *udpForward) drop(datagrams int) {
	f.srv.counters.datagramsDropped.Add(uint64(datagrams))
}

// session returns the session of client, and starts one if there is none. It returns nil if there
// are too many sessions and none may be evicted, or if client is not a valid address.
func (f *udpForward) session(client netip.AddrPort) *udpSession {
	source := share.SourceOf(client.Addr())
	s, evicted, full := f.find(client, source)
	switch {
	case s != nil || !client.IsValid():
		return s
	case full && evicted == nil:
		return nil
	case full:
		evicted.failure.set(errEvicted)
		evicted.Close()
	}
	s = &udpSession{f: f, client: client, source: source,
		entry: entry{protocol: protoForward, destination: f.name, started: time.Now()}}
	s.ctx, s.cancel = context.WithCancel(f.srv.live.ctx)
	s.sent.total, s.received.total = &f.srv.counters.sent, &f.srv.counters.received
	s.touch()
	f.mu.Lock()
	f.sessions[client] = s
	f.bySource.Add(source, s)
	f.mu.Unlock()
	f.srv.counters.forwarded.Add(1)
	f.srv.counters.openAssociations.Add(1)
	f.srv.live.wg.Go(s.run)
	return s
}

// find returns the session of client. If there is none and there are too many sessions, full is
// true, and evicted is the one to evict, or nil.
func (f *udpForward) find(client netip.AddrPort, source netip.Prefix) (s, evicted *udpSession, full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s = f.sessions[client]; s != nil || len(f.sessions) < f.srv.maxAssociations() {
		return s, nil, false
	}
	return nil, toEvict(&f.bySource, source, (*udpSession).lastUsed), true
}
