// Package transport carries WireGuard messages between peers by the best path: directly over UDP
// once discovery has proven an address, and through the peer's relay before that and while the
// direct path is in doubt.
//
// WireGuard sends (send.go) and receives (receive.go) with endpoints that stand for peers
// (endpoint.go). One UDP port carries WireGuard, disco and STUN (socket.go, classify.go), with one
// or more sockets for each address family (lanes.go). A state machine for each peer chooses the
// path of its packets (path.go). Our own endpoints come from the interfaces and from STUN
// (candidates.go, prober.go).
//
// Goroutines: the loop, which owns the peers, their state machines and the prober, and which no
// packet passes through; and one receiver for each socket, from Open on. All end with Close.
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

	"ginnel/key"
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
	Disco   key.DiscoPrivate // zero: New makes one

	// Addr is the local address to bind. If it is invalid, all addresses of both families are bound
	// and those of the interfaces are offered to peers. Otherwise Addr alone is offered.
	Addr netip.Addr
	Port uint16 // 0 picks one

	// Lanes is the number of sockets for each address family, each with its own receiving
	// goroutine: a power of two, at most MaxLanes; 0 means 1. It is 1 if Listen is set or the kernel
	// cannot spread datagrams. See lanes.go.
	Lanes int

	NoUDP bool  // relays only
	Relay Relay // nil: UDP only

	// Contact, if set, is called for a peer that pings us directly, which it does before it sends
	// data. The loop calls it, so it must not block.
	Contact func(key.NodePublic)

	// PathChanged, if set, is called for a peer whose packets take another path from now on: another
	// address, or the relay instead of an address. The loop calls it, so it must not block.
	PathChanged func(key.NodePublic)

	// PeerBack, if set, is called for a peer that pings us through a relay, as nodes do when they have
	// reconnected to theirs; at most once a second. The loop calls it, so it must not block.
	PeerBack func(key.NodePublic)

	// Listen opens the UDP sockets; nil uses sockets of the system. The network is "udp4" or "udp6".
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
	Disco     key.DiscoPublic  // zero: the peer takes no part in discovery
	Endpoints []netip.AddrPort // as the peer says
	Region    int              // of the peer's home relay; 0 if unknown
}

// Conn is the transport of one node. Make it with New.
type Conn struct {
	cfg   Config
	log   *slog.Logger
	disco key.DiscoPrivate
	// discoPublic is kept because deriving it takes longer than the rest of sealing a disco message.
	discoPublic key.DiscoPublic
	self        atomic.Pointer[key.NodePublic] // our current node key

	sock4, sock6 group
	receive      atomic.Pointer[receiveFunc] // nil before Open
	endpoints    sync.Map                    // key.NodePublic to *endpoint; read for each relayed batch

	expected expected // see discoqueue.go
	msgc     chan any // to the loop; see loop.go
	closec   chan struct{}
	once     sync.Once
	wg       sync.WaitGroup
	status   broadcast
	counters counters

	addressSends sendWatch
}

// counters counts dropped packets by reason.
type counters struct {
	udpSendDrops     atomic.Uint64 // refused by the kernel: no room, firewall
	udpReceiveErrors atomic.Uint64
	geneve           atomic.Uint64 // from peer relays, which we do not use
	loopFull         atomic.Uint64 // disco and STUN beyond the loop's queue
	stunUnasked      atomic.Uint64 // STUN messages that answer no request of ours
	discoUnknown     atomic.Uint64 // disco from a key that no peer has
	discoBad         atomic.Uint64 // disco that does not open or parse, or that must not come this way
	relayedUnknown   atomic.Uint64 // relayed from a key that is no peer
	relayedClosed    atomic.Uint64 // relayed before Open or after Close
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

// openSockets opens the sockets of each family. IPv6 may be missing unless Addr is an IPv6 address.
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
		port = g.port() // both families share a port, so that one number describes the node
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

// sockets returns the open sockets of both families.
func (c *Conn) sockets() group { return slices.Concat(c.sock4, c.sock6) }

// groupFor returns the sockets of the address family of to.
func (c *Conn) groupFor(to netip.AddrPort) group {
	if to.Addr().Is4() {
		return c.sock4
	}
	return c.sock6
}

// DiscoKey returns the key that peers must know to find a direct path to us.
func (c *Conn) DiscoKey() key.DiscoPublic { return c.discoPublic }

// LocalPort returns the UDP port, 0 if there is none.
func (c *Conn) LocalPort() uint16 { return c.sockets().port() }

// SetPeers replaces the set of peers. For a peer that stays, the state of its path is kept unless
// its keys have changed.
func (c *Conn) SetPeers(peers []Peer) {
	for _, p := range peers {
		// WireGuard may be told about the peer as soon as SetPeers returns, so its endpoint must exist.
		c.endpoints.LoadOrStore(p.Key, newEndpoint(p.Key))
	}
	c.call(func(l *loop) { l.setPeers(peers) })
}

// SetNodeKey replaces our own node key.
func (c *Conn) SetNodeKey(k key.NodePublic) {
	c.self.Store(&k)
	c.call(func(l *loop) { l.nodeKey = k })
}

// SetSTUN replaces the set of STUN servers. Their answers give our address as others see it and the
// latency of each region.
func (c *Conn) SetSTUN(servers []STUNServer) {
	c.call(func(l *loop) { l.setSTUN(servers) })
}

// NetworkChanged says that addresses or routes of the host have changed. Paths are proven anew.
func (c *Conn) NetworkChanged() {
	c.call(func(l *loop) { l.networkChanged() })
}

// GreetByRelay pings, through their relays, the peers that we exchange traffic with and have no
// direct path to. So they learn that we are reachable again. It does not wait for answers.
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

// Close ends everything. After it returns, WireGuard gets no more messages, except from a call of
// HandleRelayed or a timer of a held initiation that is running already.
func (c *Conn) Close() error {
	var errs []error
	c.once.Do(func() {
		close(c.closec)
		errs = c.sockets().close()
	})
	c.wg.Wait()
	return errors.Join(errs...)
}

// regionAddr returns the address that stands for a region in a Pong. It is never a destination.
func regionAddr(region int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 3, 3, 40}), uint16(region))
}
