// Package transport moves WireGuard datagrams between peers by the best path there is: directly
// over UDP once discovery has proven an address, through the peer's relay until then and whenever
// the direct path is in doubt.
//
// WireGuard sends by it (send.go) and is given what comes (receive.go), to and from endpoints that
// are peers (endpoint.go). One UDP port carries WireGuard, disco and STUN (socket.go, classify.go),
// with one socket or several for each address family (lanes.go). A machine for each peer decides
// which path its packets take (path.go). Our own addresses come from the interfaces and from STUN
// (candidates.go, prober.go).
//
// Goroutines: the loop, which owns the peers, their machines and the prober, and through which no
// packet passes; and from Open on one receiver for each socket. All end with Close.
package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"ginnel/internal/key"
)

// Relay carries packets to peers through relays.
type Relay interface {
	// Send passes packets to the peer whose home is region, 0 if that is not known. It does not keep
	// the packets and does not block for long.
	Send(region int, to key.NodePublic, packets [][]byte) error
}

// Config is what New needs.
type Config struct {
	NodeKey key.NodePublic   // our own; required if any peer has a disco key
	Disco   key.DiscoPrivate // zero: a fresh one is made

	// Addr is the local address to bind. Invalid means all, in both families, and that the addresses
	// of the interfaces are offered to peers; else Addr alone is.
	Addr netip.Addr
	Port uint16 // 0 picks one

	// Lanes is the number of sockets for each address family, each with its own receiving
	// goroutine: a power of two, at most MaxLanes; 0 means 1. There is one if Listen is set or the
	// system cannot spread datagrams. See lanes.go.
	Lanes int

	NoUDP bool  // relays only
	Relay Relay // nil: UDP only

	// Contact, if set, is told of a peer that tries to reach us directly, before it can. It must be
	// quick.
	Contact func(key.NodePublic)

	// PathChanged, if set, is told of a peer whose packets take another way from now on: another
	// address, or the relay instead of one. It is called by the loop and must be quick.
	PathChanged func(key.NodePublic)

	// PeerBack, if set, is told of a peer that greets us by way of a relay, as nodes do when they are
	// back at theirs; once a second at most. It is called by the loop and must be quick.
	PeerBack func(key.NodePublic)

	// Listen opens the UDP sockets; nil means those of the system. The network is "udp4" or "udp6".
	Listen func(network string, addr netip.AddrPort) (PacketConn, error)

	// LocalAddrs lists the addresses of the interfaces; nil asks the system.
	LocalAddrs func() ([]netip.Addr, error)

	// Yield, if set, is called by each receiver when it has handed on what one read brought, and
	// before it reads again. It may let other goroutines run.
	Yield func()

	Log *slog.Logger // nil discards
}

func (c *Config) log() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.New(slog.DiscardHandler)
}

func (c *Config) yield() {
	if c.Yield != nil {
		c.Yield()
	}
}

func (c *Config) localAddrs() ([]netip.Addr, error) {
	if c.LocalAddrs != nil {
		return c.LocalAddrs()
	}
	return systemAddrs()
}

// Peer is another node as the network map describes it.
type Peer struct {
	Key       key.NodePublic
	Disco     key.DiscoPublic  // zero: it takes no part in discovery
	Endpoints []netip.AddrPort // where it may be reached, in its own words
	Region    int              // of its home relay; 0 if unknown
}

// Conn is one node's place in the network. Make it with New.
type Conn struct {
	cfg   Config
	log   *slog.Logger
	disco key.DiscoPrivate
	// discoPublic is kept because deriving it takes longer than everything else about a disco message.
	discoPublic key.DiscoPublic
	self        atomic.Pointer[key.NodePublic] // our node key of now

	sock4, sock6 group
	receive      atomic.Pointer[receiveFunc] // WireGuard's; nil before Open
	endpoints    sync.Map                    // key.NodePublic to *endpoint; read for each relayed batch

	expected expected // see arrivals.go
	msgc     chan any // to the loop; see loop.go
	closec   chan struct{}
	once     sync.Once
	wg       sync.WaitGroup
	status   broadcast
	counters counters

	addressSends sendWatch
}

// counters counts what is dropped, and why.
type counters struct {
	udpSendDrops     atomic.Uint64 // refused by the system: no room, firewall
	udpReceiveErrors atomic.Uint64
	geneve           atomic.Uint64 // peer relays are not used
	loopFull         atomic.Uint64 // disco and STUN faster than the loop
	stunUnasked      atomic.Uint64 // STUN that answers no request of ours
	discoUnknown     atomic.Uint64 // sender in no peer's record
	discoBad         atomic.Uint64 // does not open or parse, or came a way it must not
	relayedUnknown   atomic.Uint64 // relayed from a key that is no peer
	relayedClosed    atomic.Uint64 // relayed while WireGuard is not given anything
}

// New opens the sockets and starts the loop.
func New(cfg Config) (*Conn, error) {
	if err := checkLanes(cfg.Lanes); err != nil {
		return nil, err
	}
	c := &Conn{
		cfg:    cfg,
		log:    cfg.log(),
		disco:  cfg.Disco,
		msgc:   make(chan any, loopQueue),
		closec: make(chan struct{}),

		addressSends: sendWatch{sentc: make(chan struct{}, 1)},
	}
	c.self.Store(&cfg.NodeKey)
	if c.disco.IsZero() {
		c.disco = key.NewDiscoPrivate()
	}
	c.discoPublic = c.disco.Public()
	c.status.init()
	if err := c.openSockets(); err != nil {
		return nil, err
	}
	l := newLoop(c)
	c.wg.Go(l.run)
	return c, nil
}

// openSockets opens the sockets of each family. IPv6 is optional unless it was asked for.
func (c *Conn) openSockets() error {
	if c.cfg.NoUDP {
		return nil
	}
	want4, want6 := !c.cfg.Addr.Is6(), !c.cfg.Addr.Is4()
	port := c.cfg.Port
	if want4 {
		g, err := c.openGroup("udp4", netip.AddrPortFrom(c.bindAddr(netip.IPv4Unspecified()), port))
		if err != nil {
			return fmt.Errorf("opening UDP port %d: %w", port, err)
		}
		c.sock4 = g
		port = g.port() // the same in both families, so that one number describes the node
	}
	if want6 {
		g, err := c.openGroup("udp6", netip.AddrPortFrom(c.bindAddr(netip.IPv6Unspecified()), port))
		if err != nil && c.cfg.Port == 0 {
			g, err = c.openGroup("udp6", netip.AddrPortFrom(c.bindAddr(netip.IPv6Unspecified()), 0))
		}
		switch {
		case err == nil:
			c.sock6 = g
		case !want4:
			return fmt.Errorf("opening UDP port %d over IPv6: %w", port, err)
		default:
			c.log.Info("no IPv6 socket", "err", err)
		}
	}
	return nil
}

func (c *Conn) bindAddr(unspecified netip.Addr) netip.Addr {
	if c.cfg.Addr.IsValid() {
		return c.cfg.Addr
	}
	return unspecified
}

func (c *Conn) openSocket(network string, addr netip.AddrPort) (*socket, error) {
	if c.cfg.Listen != nil {
		pc, err := c.cfg.Listen(network, addr)
		if err != nil {
			return nil, err
		}
		return newSocket(pc)
	}
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(context.Background(), network, addr.String())
	if err != nil {
		return nil, err
	}
	s, err := newSocket(pc.(*net.UDPConn))
	if err != nil {
		pc.Close()
		return nil, err
	}
	return s, nil
}

// sockets returns those that are open, of both families.
func (c *Conn) sockets() group { return slices.Concat(c.sock4, c.sock6) }

// groupFor returns the sockets of to's family.
func (c *Conn) groupFor(to netip.AddrPort) group {
	if to.Addr().Is4() {
		return c.sock4
	}
	return c.sock6
}

// DiscoKey is the key that peers must know to find a direct path to us.
func (c *Conn) DiscoKey() key.DiscoPublic { return c.discoPublic }

// LocalPort is the UDP port, 0 if there is none.
func (c *Conn) LocalPort() uint16 { return c.sockets().port() }

// SetPeers takes the whole set of peers. What is known about the path to a peer that stays is kept,
// unless its keys changed.
func (c *Conn) SetPeers(peers []Peer) {
	for _, p := range peers {
		// WireGuard may be told of the peer as soon as this returns, so its endpoint exists from here on.
		c.endpoints.LoadOrStore(p.Key, newEndpoint(p.Key))
	}
	c.call(func(l *loop) { l.setPeers(peers) })
}

// SetNodeKey tells of a new key of our own.
func (c *Conn) SetNodeKey(k key.NodePublic) {
	c.self.Store(&k)
	c.call(func(l *loop) { l.nodeKey = k })
}

// SetSTUN takes the whole set of STUN servers. Replies tell our address as others see it and how
// far each region is.
func (c *Conn) SetSTUN(servers []STUNServer) {
	c.call(func(l *loop) { l.setSTUN(servers) })
}

// NetworkChanged tells that addresses or routes of the system changed. Paths are proven anew.
func (c *Conn) NetworkChanged() {
	c.call(func(l *loop) { l.networkChanged() })
}

// GreetByRelay pings the peers that there is traffic with and no direct path to, through their
// relays, and does not wait for answers: so they learn that we are there again.
func (c *Conn) GreetByRelay() {
	c.call(func(l *loop) { l.greetByRelay() })
}

func (c *Conn) endpointOf(k key.NodePublic) *endpoint {
	if e, ok := c.endpoints.Load(k); ok {
		return e.(*endpoint)
	}
	return nil
}

func (c *Conn) isClosed() bool {
	select {
	case <-c.closec:
		return true
	default:
		return false
	}
}

// Close ends everything. Once it returns WireGuard is given nothing any more, but for what a caller
// of HandleRelayed, or the timer of a handshake, is handing over.
func (c *Conn) Close() error {
	var errs []error
	c.once.Do(func() {
		close(c.closec)
		errs = c.sockets().close()
	})
	c.wg.Wait()
	return errors.Join(errs...)
}

// regionAddr is how a region stands in a Pong: an address that is never on the wire as a
// destination.
func regionAddr(region int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 3, 3, 40}), uint16(region))
}
