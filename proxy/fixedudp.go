package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"ginnel/internal/share"
)

const (
	// maxReadErrors in a row, and a socket is taken for broken. Single ones are what an earlier
	// datagram provoked, such as a port that nobody listens on.
	maxReadErrors = 100

	// While the destination is dialled, this many datagrams of one sender wait, and this many bytes of
	// all senders of one ForwardPackets together. Further ones are dropped.
	forwardQueue  = 64
	forwardBudget = 1 << 20

	// failedSenderTime is how long a sender whose destination could not be reached is remembered. Its
	// datagrams are dropped meanwhile: each would else be a dial and a line in the log.
	failedSenderTime = time.Second
)

// ForwardPackets carries datagrams that arrive on pc to one destination, and its answers back. Each
// sender, told by its IP address and port, has a conn of its own there, which dial opens and which
// ends when nothing has passed for IdleTimeout. There are at most MaxAssociations senders: a
// further one takes the place of one that is idle, or of an address that has more; if there is
// none, its datagrams are dropped. Otherwise it is like Forward.
//
// If pc has the methods ReadFromUDPAddrPort and WriteToUDPAddrPort of *net.UDPConn, a datagram
// costs no allocation.
func (s *Server) ForwardPackets(pc net.PacketConn, name string, dial DialFunc) error {
	defer pc.Close()
	f := &packetForward{srv: s, pc: datagramsOf(pc), name: name, dial: dial,
		waiting: share.Budget[netip.Prefix]{Size: forwardBudget}, senders: make(map[netip.AddrPort]*sender)}
	in, err := s.inletOf(pc)
	if err != nil {
		return err
	}
	return s.whileLive(pc, func() error { return f.serve(in, pc.LocalAddr()) })
}

// datagrams is a UDP socket by the methods that do not allocate.
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

// allocatingDatagrams gives any net.PacketConn the methods of datagrams.
type allocatingDatagrams struct{ pc net.PacketConn }

// ReadFromUDPAddrPort returns an invalid address for a sender that has no IP address.
func (d allocatingDatagrams) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, from, err := d.pc.ReadFrom(b)
	return n, addrPortOf(from), err
}

// WriteToUDPAddrPort implements datagrams.
func (d allocatingDatagrams) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	return d.pc.WriteTo(b, net.UDPAddrFromAddrPort(to))
}

// packetForward is one call of ForwardPackets. Its goroutine reads from pc and writes to the
// destination: what comes faster than it can be passed on is dropped by the receiving socket.
type packetForward struct {
	srv     *Server
	pc      datagrams
	name    string
	dial    DialFunc
	waiting share.Budget[netip.Prefix] // bytes of what waits for a dial, by the address that has sent it

	mu      sync.Mutex
	senders map[netip.AddrPort]*sender // only serve adds
	held    share.Table[netip.Prefix, *sender]
}

func (f *packetForward) serve(in inlet, local net.Addr) error {
	for failed := 0; ; {
		err := f.receiveSome(in)
		if f.srv.live.ended() {
			return errServerClosed
		}
		if err == nil {
			failed = 0
			continue
		}
		if failed++; failed == maxReadErrors || errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("receiving on %v: %w", local, err)
		}
	}
}

// receiveSome waits for datagrams and passes them on.
func (f *packetForward) receiveSome(in inlet) error {
	if err := in.await(); err != nil {
		return err
	}
	slab := f.srv.udp.slabs.take(in)
	defer slab.free()
	if err := in.receive(slab); err != nil {
		return err
	}
	for from, data := slab.from, slab.data; len(data) > 0; {
		n := 1
		for n < len(data) && from[n] == from[0] {
			n++
		}
		if s := f.sender(netip.AddrPortFrom(from[0].Addr().Unmap(), from[0].Port())); s != nil {
			s.pass(data[:n])
		} else {
			f.drop(n)
		}
		from, data = from[n:], data[n:]
	}
	return nil
}

func (f *packetForward) drop(datagrams int) {
	f.srv.counters.datagramsDropped.Add(uint64(datagrams))
}

// sender returns the sender with that address, new if need be; nil if there are too many.
func (f *packetForward) sender(addr netip.AddrPort) *sender {
	source := share.SourceOf(addr.Addr())
	s, idle, full := f.find(addr, source)
	switch {
	case s != nil || !addr.IsValid():
		return s
	case full && idle == nil:
		return nil
	case full:
		idle.failure.set(errGaveWay)
		idle.Close()
	}
	s = &sender{f: f, addr: addr, source: source, closec: make(chan struct{}),
		entry: entry{protocol: protoForward, destination: f.name, started: time.Now()}}
	s.sent.total, s.received.total = &f.srv.counters.sent, &f.srv.counters.received
	s.touch()
	f.mu.Lock()
	f.senders[addr] = s
	f.held.Add(source, s)
	f.mu.Unlock()
	f.srv.counters.forwarded.Add(1)
	f.srv.counters.openAssociations.Add(1)
	if !f.srv.live.add(s) {
		s.Close()
		return nil
	}
	f.srv.live.wg.Go(s.run)
	return s
}

// find returns the sender with that address, or else, if there are too many senders, the one that
// gives way, if any does.
func (f *packetForward) find(addr netip.AddrPort, source netip.Prefix) (s, idle *sender, full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s = f.senders[addr]; s != nil || len(f.senders) < f.srv.maxAssociations() {
		return s, nil, false
	}
	return nil, givesWay(&f.held, source, (*sender).lastUsed), true
}
