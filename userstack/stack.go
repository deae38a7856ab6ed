// Package userstack is TCP/IP without privileges: a gVisor network stack with a Device for
// WireGuard on one side and Dial, Listen and Ping for programs on the other. Only this package
// names gVisor types.
//
// Outbound, TCP leaves gVisor in segments of up to 64 KiB, which are cut to size just before they
// are encrypted (segment.go). Inbound, packets of one flow that WireGuard delivers together are
// joined again before the stack sees them (coalesce.go). Nothing comes in that was not asked for,
// unless the Filter allows it (filter.go).
//
// Goroutines: none of its own. gVisor starts some, which end with Close.
package userstack

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	// DefaultMTU is the MTU that wg-quick gives a tunnel over a 1500-byte network.
	DefaultMTU = 1420
	minMTU     = 576   // RFC 791: what every host must accept
	maxMTU     = 65500 // leaves room for WireGuard's 32 bytes in a UDP datagram

	nicID = 1

	// Sizes of TCP buffers. Connections begin with firstShare, and their buffers grow with the
	// bandwidth-delay product up to tcpBufferMax in each direction, which is 450 Mbit/s over 300 ms;
	// less of both where Config.Buffers does not suffice.
	tcpBufferMin     = 4 << 10
	tcpBufferDefault = 2 * firstShare
	tcpBufferMax     = 16 << 20

	// timeWait is how long a closed connection is remembered, in 7 KB. The usual minute is for
	// packets that the network delivers late or twice; WireGuard drops the latter.
	timeWait = 5 * time.Second

	udpBuffer    = 1 << 20 // at the most, of the buffers of a conn; see Config.udpBuffer
	udpBufferMax = 4 << 20
)

// Config is what New needs. The zero value is usable.
type Config struct {
	MTU int // of the tunnel, in bytes; 0 means DefaultMTU

	Batch int // packets that are best read in one call; 0: as many as are fast

	// Buffers bounds in bytes what the buffers of all TCP connections may hold together; 0 means no
	// bound. A connection for which nothing is left waits.
	Buffers int

	Congestion Congestion // how fast TCP connections send; the zero value is BBR

	// AnswerTSMP has the stack answer the pings of the mesh's own protocol, past the filter.
	AnswerTSMP bool

	// Rejected, if set, is called when a peer says that its policy, or a firewall there, has dropped a
	// SYN of ours to an address. It must be quick. Only a stack that answers TSMP hears of it.
	Rejected func(to netip.AddrPort)

	// Active, if set, is called when packets come and before one leaves; brief says that it may be a
	// question or an answer, and not a part of much. It must be quick.
	Active func(brief bool)

	// Peer returns one address for all source addresses of a peer, so that the peer gets the share
	// of one however many it has; nil means that each address is a peer. It is called for each
	// request of a connection, and must be quick.
	Peer func(netip.Addr) netip.Addr

	// Router takes what is for addresses behind this host; nil: there are none, and the filter is not
	// asked about any.
	Router *Router

	// Traffic, if set, is told about every second what connections have carried in an interval, by the
	// address of the other side, while they carry much. Only BBR knows.
	Traffic func(all map[netip.Addr]Traffic, interval time.Duration)

	// Queues is the number of queues by which packets leave, for as many goroutines to read: a power
	// of two. 0 means 1.
	Queues int

	clock tcpip.Clock // nil: the system's
}

func (c *Config) mtu() (int, error) {
	switch {
	case c.MTU == 0:
		return DefaultMTU, nil
	case c.MTU < minMTU || c.MTU > maxMTU:
		return 0, fmt.Errorf("userstack: MTU %d is not between %d and %d", c.MTU, minMTU, maxMTU)
	}
	return c.MTU, nil
}

// udpBuffer is the size of a UDP conn's buffers in bytes. UDP is not counted in Buffers, but no
// conn has more of it than a fraction.
func (c *Config) udpBuffer() int {
	if c.Buffers == 0 {
		return udpBuffer
	}
	return min(udpBuffer, c.Buffers/16)
}

// Stack is one TCP/IP host. Make it with New.
type Stack struct {
	gv         *stack.Stack
	dev        *Device
	memory     memory
	congestion Congestion

	mu    sync.Mutex
	addrs map[netip.Addr]struct{} // what gv has

	requestListeners sync.Map       // uint16 to *Gate
	ownForwarder     *tcp.Forwarder // of connections that the gates are asked about
	routedForwarder  *tcp.Forwarder // of those that the router is asked about; nil: there is none
	synQueue         synQueue       // what waits for either
	dials            dialLimiter    // connections that are being made

	closed    atomic.Bool
	accepting atomic.Int64  // handshakes that somebody waits for in Incoming.Accept
	pings     atomic.Uint32 // sequence number of the last echo request
}

// New makes a stack without addresses. Nothing passes until SetAddrs.
func New(cfg Config) (*Stack, error) {
	mtu, err := cfg.mtu()
	if err != nil {
		return nil, err
	}
	if cfg.Buffers != 0 && cfg.Buffers < minBuffers {
		return nil, fmt.Errorf("userstack: %d bytes for buffers are too few, want %d", cfg.Buffers, minBuffers)
	}
	if cfg.Congestion > CUBIC {
		return nil, fmt.Errorf("userstack: unknown congestion control %v", cfg.Congestion)
	}
	queues := cmp.Or(cfg.Queues, 1)
	if queues < 1 || queues > maxQueues || queues&(queues-1) != 0 {
		return nil, fmt.Errorf("userstack: %d queues are not a power of two up to %d", queues, maxQueues)
	}
	silenceLog()
	gv := stack.New(stack.Options{
		Clock:              cfg.clock,
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		HandleLocal:        cfg.Router == nil, // the host's own addresses are reached without leaving it; see Router
	})
	s := &Stack{gv: gv, dev: newDevice(mtu, cfg.Batch, queues, gv.Clock()), congestion: cfg.Congestion, addrs: make(map[netip.Addr]struct{})}
	s.dev.own.Store(&[]netip.Addr{})
	s.dev.tsmp, s.dev.onRejected = cfg.AnswerTSMP, cfg.Rejected
	for _, q := range s.dev.queues {
		q.report.callback = cfg.Traffic
	}
	if cfg.Active != nil {
		s.dev.active = cfg.Active
	}
	err = s.setUp(&cfg)
	if err == nil && cfg.Router != nil {
		err = s.setRouter(*cfg.Router)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// silenceLog keeps gVisor from writing to standard error, for the whole process. What it has to say is
// about single packets.
var silenceLog = sync.OnceFunc(func() { log.SetTarget(discardEmitter{}) })

// discardEmitter is a log.Emitter.
type discardEmitter struct{}

// Emit implements log.Emitter.
func (discardEmitter) Emit(int, log.Level, time.Time, string, ...any) {}

func (s *Stack) setUp(cfg *Config) error {
	if err := s.setOptions(cfg); err != nil {
		return err
	}
	s.memory.init(s.gv, cfg.Buffers)
	s.setRequestHandlers(cfg)
	return s.addNIC(nicID, &s.dev.dispatcher)
}

// addNIC makes an interface, whose dispatcher up will hold, and lets everything leave by it.
func (s *Stack) addNIC(id tcpip.NICID, up *atomic.Pointer[stack.NetworkDispatcher]) error {
	l := link{s.dev, up}
	if err := s.gv.CreateNICWithOptions(id, l, stack.NICOptions{QDisc: l}); err != nil {
		return fmt.Errorf("userstack: creating interface: %s", err)
	}
	s.gv.AddRoute(tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: id})
	s.gv.AddRoute(tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: id})
	return nil
}

func (s *Stack) setOptions(cfg *Config) error {
	sack := tcpip.TCPSACKEnabled(true)
	// RACK is for CUBIC only, and hurts it: after a burst of losses gVisor's RACK sends one packet a
	// round trip.
	recovery := tcpip.TCPRecovery(0)
	reuse := tcpip.TCPTimeWaitReuseOption(tcpip.TCPTimeWaitReuseGlobal)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	snd := tcpip.TCPSendBufferSizeRangeOption{Min: tcpBufferMin, Default: tcpBufferDefault, Max: tcpBufferMax}
	options := append(s.congestion.options(), &sack, &recovery, &reuse, &wait, &snd)
	for _, o := range options {
		if err := s.gv.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("userstack: setting TCP option %T: %s", o, err)
		}
	}
	rcvUDP := tcpip.ReceiveBufferSizeOption{Min: tcpBufferMin, Default: cfg.udpBuffer(), Max: udpBufferMax}
	sndUDP := tcpip.SendBufferSizeOption{Min: tcpBufferMin, Default: cfg.udpBuffer(), Max: udpBufferMax}
	for _, o := range []any{rcvUDP, sndUDP} {
		if err := s.gv.SetOption(o); err != nil {
			return fmt.Errorf("userstack: setting option %T: %s", o, err)
		}
	}
	return nil
}

// Device returns the side of the network.
func (s *Stack) Device() *Device { return s.dev }

// Addrs returns the stack's own addresses. The caller must not change the slice.
func (s *Stack) Addrs() []netip.Addr { return *s.dev.own.Load() }

// SetAddrs makes addrs the whole set of the stack's own addresses. Connections on an address that
// goes away die. Prefix lengths are ignored: there is one link, and everything is on it.
func (s *Stack) SetAddrs(addrs []netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return net.ErrClosed
	}
	want := make(map[netip.Addr]struct{}, len(addrs))
	var errs []error
	for _, p := range addrs {
		a := p.Addr().Unmap().WithZone("")
		want[a] = struct{}{}
		if _, ok := s.addrs[a]; ok {
			continue
		}
		if err := s.gv.AddProtocolAddress(nicID, protocolAddress(a), stack.AddressProperties{}); err != nil {
			errs = append(errs, fmt.Errorf("adding address %v: %s", a, err))
			continue
		}
		s.addrs[a] = struct{}{}
	}
	for a := range s.addrs {
		if _, ok := want[a]; ok {
			continue
		}
		if err := s.gv.RemoveAddress(nicID, addressOf(a)); err != nil {
			errs = append(errs, fmt.Errorf("removing address %v: %s", a, err))
			continue
		}
		delete(s.addrs, a)
	}
	own := make([]netip.Addr, 0, len(s.addrs))
	for _, p := range addrs {
		a := p.Addr().Unmap().WithZone("")
		if _, ok := s.addrs[a]; ok {
			own = append(own, a)
		}
	}
	s.dev.own.Store(&own)
	return errors.Join(errs...)
}

// Close ends the stack: connections and listeners are reset. Blocked calls, and later ones, return
// net.ErrClosed.
func (s *Stack) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.dev.Close() // first: a goroutine of gVisor may be blocked in it
	s.synQueue.close()
	s.gv.Close()
	s.endAccepts()
	s.gv.Wait()
	return nil
}

// endAccepts ends the handshakes that began while gVisor closed: it has not seen them, and would
// wait for them.
func (s *Stack) endAccepts() {
	for s.accepting.Load() > 0 {
		for _, ep := range s.gv.RegisteredEndpoints() {
			ep.Abort()
		}
		time.Sleep(time.Millisecond)
	}
}

func addressOf(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func addrOf(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func protocolAddress(a netip.Addr) tcpip.ProtocolAddress {
	return tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: addressOf(a).WithPrefix()}
}

// fullAddress translates ap; an invalid address means any.
func fullAddress(ap netip.AddrPort) tcpip.FullAddress {
	fa := tcpip.FullAddress{NIC: nicID, Port: ap.Port()}
	if a := ap.Addr().Unmap(); a.IsValid() && !a.IsUnspecified() {
		fa.Addr = addressOf(a)
	}
	return fa
}

func addrPortOf(fa tcpip.FullAddress) netip.AddrPort {
	return netip.AddrPortFrom(addrOf(fa.Addr), fa.Port)
}

// Drops counts packets that the stack dropped.
type Drops struct {
	Filtered uint64 // inbound: malformed, or neither an answer nor allowed by the filter
	Full     uint64 // outbound: the queue to WireGuard was full
	TooLong  uint64 // outbound: longer than WireGuard's buffers
}

// Dropped returns the counters so far.
func (s *Stack) Dropped() Drops {
	d := Drops{Filtered: s.dev.filtered.Load(), Full: s.dev.queueFull.Load()}
	for _, q := range s.dev.queues {
		d.TooLong += q.segmenter.malformed.Load()
	}
	return d
}
