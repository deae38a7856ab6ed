// Package userstack is a TCP/IP host in user space, without privileges: a gVisor network stack with
// a Device for WireGuard on one side, and DialContext, Listen and Ping for programs on the other.
// No other package names gVisor types.
//
// Outbound, gVisor makes TCP segments of up to 64 KiB, which are cut to packets just before they
// are encrypted (segment.go). Under BBR a tcpFlow decides when the packets of a connection leave
// and retransmits lost ones (tcpflow.go). Inbound, packets of one flow that WireGuard delivers in
// one batch are merged before gVisor handles them (coalesce.go). Only answers enter, and what the
// Filter accepts (filter.go).
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
	// DefaultMTU is the MTU that wg-quick sets on a network with an MTU of 1500 bytes.
	DefaultMTU = 1420
	minMTU     = 576   // every host must accept packets of this size (RFC 791)
	maxMTU     = 65500 // leaves room for WireGuard's 32 bytes in a UDP datagram

	nicID = 1

	// Sizes of TCP buffers in bytes. Buffers begin with firstShare and grow with the bandwidth-delay
	// product up to tcpBufferMax in each direction, which suffices for 450 Mbit/s at 300 ms. With a
	// small Config.Buffers both are smaller.
	tcpBufferMin     = 4 << 10
	tcpBufferDefault = 2 * firstShare
	tcpBufferMax     = 16 << 20

	// timeWait is how long a closed connection stays in TIME-WAIT, which takes 7 KB. The usual
	// minute or more protects against packets that the network delays or duplicates; WireGuard
	// drops duplicates.
	timeWait = 5 * time.Second

	udpBuffer    = 1 << 20 // largest default, in bytes; see Config.udpBuffer
	udpBufferMax = 4 << 20
)

// Config configures a Stack. The zero value is usable.
type Config struct {
	MTU int // MTU of the tunnel in bytes; 0 means DefaultMTU

	Batch int // number of packets to read in one call; 0 means one gVisor segment, but at least minBatch

	// Buffers limits the buffers of all TCP connections together, in bytes; 0 means no limit. New
	// connections wait while the buffers are used up.
	Buffers int

	Congestion Congestion // of TCP connections; the zero value is BBR

	// AnswerTSMP enables TSMP: the stack answers pings of the mesh, regardless of the filter, and
	// sends and receives rejections.
	AnswerTSMP bool

	// Rejected, if set, is called when a peer reports that its policy or firewall has dropped a SYN
	// of this stack to an address. It must be fast. It requires AnswerTSMP.
	Rejected func(to netip.AddrPort)

	Activity Activity // hears of packets; nil: nobody does

	// Peer returns the same address for all source addresses of a peer, so that a peer with several
	// addresses gets the share of one. nil means that each address is a peer. It is called for each
	// connection request and must be fast.
	Peer func(netip.Addr) netip.Addr

	// Router handles connections to addresses behind this host; nil means that there are none. The
	// filter is asked about them too.
	Router *Router

	// Traffic, if set, is called about once a second while connections carry much traffic. all is
	// what they have carried during interval, by remote address. It is only called under BBR.
	Traffic func(all map[netip.Addr]Traffic, interval time.Duration)

	// Queues is the number of queues of outbound packets, each of which may be read by a goroutine.
	// It must be a power of two; 0 means 1.
	Queues int

	clock tcpip.Clock // nil means the system clock
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

// udpBuffer is the default size of the buffers of a UDP socket in bytes. UDP does not count in
// Buffers, so the size is limited to a fraction of it.
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
	addrs map[netip.Addr]struct{} // addresses that gv has

	requestListeners requestListeners
	ownForwarder     *tcp.Forwarder // of SYNs to the ports of requestListeners
	routedForwarder  *tcp.Forwarder // of SYNs for the Router; nil if there is none
	synQueue         synQueue       // SYNs that wait for either forwarder
	dials            dialLimiter    // dials in progress

	closed    atomic.Bool
	accepting atomic.Int64  // handshakes in progress in ConnRequest.Accept
	pings     atomic.Uint32 // sequence number of the last echo request
}

// New makes a stack without addresses. It carries no traffic before SetAddrs.
func New(cfg Config) (*Stack, error) {
	mtu, err := cfg.mtu()
	if err != nil {
		return nil, err
	}
	if cfg.Buffers != 0 && cfg.Buffers < minBuffers {
		return nil, fmt.Errorf("userstack: Buffers is %d bytes, less than the minimum of %d", cfg.Buffers, minBuffers)
	}
	if cfg.Congestion > CUBIC {
		return nil, fmt.Errorf("userstack: unknown congestion control %v", cfg.Congestion)
	}
	queues := cmp.Or(cfg.Queues, 1)
	if queues < 1 || queues > maxQueues || queues&(queues-1) != 0 {
		return nil, fmt.Errorf("userstack: number of queues %d is not a power of two up to %d", queues, maxQueues)
	}
	silenceLog()
	gv := stack.New(stack.Options{
		Clock:            cfg.clock,
		NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		HandleLocal: cfg.Router == nil, // with a Router, see link.deliverLocally
	})
	s := &Stack{
		gv:         gv,
		dev:        newDevice(mtu, cfg.Batch, queues, gv.Clock()),
		congestion: cfg.Congestion,
		addrs:      make(map[netip.Addr]struct{}),
	}
	s.dev.tsmp, s.dev.onRejected = cfg.AnswerTSMP, cfg.Rejected
	for _, q := range s.dev.queues {
		q.report.callback = cfg.Traffic
	}
	if cfg.Activity != nil {
		s.dev.activity = cfg.Activity
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

// silenceLog disables gVisor's logging to standard error, for the whole process. Its messages are
// about single packets.
var silenceLog = sync.OnceFunc(func() { log.SetTarget(discardEmitter{}) })

// discardEmitter is a log.Emitter that discards all messages.
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

// addNIC adds an interface with default routes. Its dispatcher is stored in up.
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
	// RACK is disabled. Under BBR it has no effect, and under CUBIC it is harmful: after a burst of
	// losses gVisor's RACK sends one packet per round trip.
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

// Device returns the network side of the stack.
func (s *Stack) Device() *Device { return s.dev }

// Addrs returns the stack's own addresses. The caller must not modify the slice.
func (s *Stack) Addrs() []netip.Addr { return *s.dev.own.Load() }

// SetAddrs replaces the stack's own addresses. Connections on a removed address end. Prefix lengths
// are ignored, because everything is reached by one link.
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

// Close closes the stack. Connections and listeners are reset. Blocked and later calls return
// net.ErrClosed.
func (s *Stack) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.dev.Close() // first, because a goroutine of gVisor may be blocked in it
	s.synQueue.close()
	s.gv.Close()
	s.endAccepts()
	s.gv.Wait()
	return nil
}

// endAccepts aborts the handshakes that were starting during gv.Close, which has missed them: their
// endpoints were not registered yet. It must look repeatedly, because gVisor does not tell when it
// has registered an endpoint. The wait is short, because a starting handshake registers without
// blocking.
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

// fullAddress translates ap. An invalid or unspecified address means any.
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

// Drops counts the packets that the stack has dropped.
type Drops struct {
	Filtered uint64 // inbound: malformed, or neither an answer nor accepted by the filter
	Full     uint64 // outbound: the queue was full
	TooLong  uint64 // outbound: longer than the buffer to read into
}

// Dropped returns the current counters.
func (s *Stack) Dropped() Drops {
	d := Drops{Filtered: s.dev.filtered.Load(), Full: s.dev.queueFull.Load()}
	for _, q := range s.dev.queues {
		d.TooLong += q.segmenter.malformed.Load()
	}
	return d
}
