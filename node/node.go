// Package node runs one member of a mesh in a process. It assembles the TCP/IP stack, WireGuard,
// the transport, the relays and the local proxies, and keeps them agreed with the network map. It
// implements no protocol itself.
//
// A Node has these parts, each with its own state: dataPlane (packets), dialer (connections of this
// node and its clients), ingress (listeners), membership (coordination server), localAPI (pages),
// and endpointKeeper, stunKeeper and relayWatch (upkeep).
//
// Goroutines: those of the other packages; one for each listener; one for each of endpointKeeper,
// stunKeeper, relayWatch and the watch for network changes; two or more of membership; those that
// dial the addresses of a name; and one for each target of Config.WaitFor. Close ends all of them
// and waits.
package node

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"ginnel/key"
	"ginnel/transport"
	"ginnel/tuning"
)

// DefaultDialTimeout bounds the dial of a connection through the proxies.
const DefaultDialTimeout = 30 * time.Second

// PacketConn is what a node needs of a UDP socket. *net.UDPConn is one.
type PacketConn = transport.PacketConn

// Config configures a node. Either Key and Map or Control must be set.
type Config struct {
	Key key.NodePrivate
	Map NetworkMap

	Control *Control // nil: the map is Map, or what SetMap was given last

	MTU       int        // of packets in the mesh, in bytes; 0: 1420
	UDPPort   uint16     // 0: the system chooses one
	UDPAddr   netip.Addr // invalid: all addresses of the host
	RelayOnly bool       // do not use UDP
	MeshOnly  bool       // refuse destinations outside the mesh
	WaitFor   []string   // targets that must answer before the node is ready: host:port a connection, a host a ping

	Proxies      []net.Addr                       // where SOCKS5 and HTTP are served: "tcp" or "unix" addresses
	ProxyAuth    func(user, password string) bool // nil: no password; proxies must listen on loopback or unix
	UserProxy    net.Addr                         // of a proxy for this user without a password; nil: none
	Associations int                              // limit of UDP associations; 0: 256, or fewer with little Memory
	DialTimeout  time.Duration                    // 0: DefaultDialTimeout
	// bytes for the process, which size buffers and queues; 0: Tuning's, or no bound
	Memory     int64
	Congestion Congestion // how fast TCP connections in the mesh send; zero: BBR
	Processors int        // to plan for; 0: those of Tuning, or GOMAXPROCS when New is called
	Forwards   []Forward
	DNS        net.Addr // where DNS is served, over UDP and TCP; nil: nowhere
	Serves     []Serve
	Tuning     *tuning.Process // from tuning.Start; nil: the process is not tuned
	Token      string          // required by the local API for requests that change the node; empty: they are refused
	Shutdown   func()          // called when the local API is told to end the node; nil: such requests are refused

	// OutboundProxy returns the proxy for a URL outside the mesh, including relays and the
	// coordination server; nil: none. See internal/egress.
	OutboundProxy func(*url.URL) (*url.URL, error)
	Roots         *x509.CertPool // trusted for relays and the coordination server, besides the system's roots

	// ListenUDP opens the UDP sockets, for "udp4" and "udp6"; nil: sockets of the system, used in
	// batches.
	ListenUDP func(network string, addr netip.AddrPort) (PacketConn, error)

	// DialHost connects to a destination outside the mesh; nil: by sockets of the system.
	DialHost func(ctx context.Context, network, addr string) (net.Conn, error)

	// LookupHost resolves the names of endpoints and STUN servers; nil: the system's resolver.
	LookupHost func(ctx context.Context, host string) ([]netip.Addr, error)

	Version string       // of the program, for the status and the coordination server
	Log     *slog.Logger // nil discards
	ConnLog *slog.Logger // has a line for each proxied connection; nil discards
}

// Forward carries connections or datagrams from a local port to Target. The host of Target may be a
// name of the mesh.
type Forward struct {
	Listen net.Addr // "tcp", "unix" or "udp"
	Target string   // host:port
}

// Serve carries connections or datagrams from a port of this node in the mesh to Target on this
// machine, a "tcp", "unix" or "udp" address.
type Serve struct {
	Port   uint16
	Target net.Addr
}

func (c *Config) log() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.New(slog.DiscardHandler)
}

func (c *Config) dialTimeout() time.Duration {
	if c.DialTimeout > 0 {
		return c.DialTimeout
	}
	return DefaultDialTimeout
}

func (c *Config) dialHost(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.DialHost != nil {
		return c.DialHost(ctx, network, addr)
	}
	return dialOnHost(ctx, network, addr)
}

func (c *Config) lookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	if c.LookupHost != nil {
		return c.LookupHost(ctx, host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func (c *Config) check() error {
	if c.Control != nil {
		return c.checkControl()
	}
	if c.Key.IsZero() {
		return errors.New("node: Config.Key is missing")
	}
	if len(c.Map.Addresses) == 0 {
		return errors.New("node: Config.Map has no addresses")
	}
	return c.Map.Relays.Validate()
}

// Node is a running member of a mesh. Make it with New.
type Node struct {
	cfg     Config
	log     *slog.Logger
	life    *lifetime
	started time.Time
	failc   chan error // capacity 1; why the node cannot go on

	host    *hostDialer
	plane   *dataPlane
	member  *membership // nil without a coordination server
	dialer  *dialer
	ingress *ingress
	api     *localAPI

	endpoints *endpointKeeper
	stun      *stunKeeper
	relays    *relayWatch
	awaits    awaits
}

// New starts a node: it opens its listeners and sockets, and connects to the peers and relays of
// the map in the background.
func New(cfg Config) (*Node, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.useTuning()
	n := &Node{cfg: cfg, log: cfg.log(), life: newLifetime(context.Background()), started: time.Now(),
		failc: make(chan error, 1)}
	n.host = &hostDialer{cfg: &n.cfg}
	n.plane = newDataPlane(&n.cfg, n.log, n.life, n.host)
	if cfg.Control != nil {
		var err error
		if n.member, err = newMembership(n); err != nil {
			return nil, err
		}
	}
	n.endpoints = newEndpointKeeper(n)
	n.dialer = newDialer(n)
	n.api = &localAPI{n: n}
	n.ingress = newIngress(n, n.api.handler(), n.api.hasToken)
	n.stun = newSTUNKeeper(n)
	n.relays = &relayWatch{plane: n.plane, member: n.member}
	if err := cfg.Tuning.WithAllPs(n.start); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Node) start() error {
	if err := n.ingress.openListeners(); err != nil {
		return err
	}
	if err := n.plane.open(n.ingress.router.stackConfig(), n.ingress.accepts); err != nil {
		return err
	}
	if err := n.ingress.openExitDNS(); err != nil {
		return err
	}
	if err := n.SetMap(n.cfg.Map); err != nil {
		return err
	}
	if err := n.ingress.openServes(); err != nil {
		return err
	}
	n.ingress.serve()
	for _, run := range []func(context.Context){n.endpoints.run, n.stun.run, n.watchNetwork, n.relays.run} {
		n.life.spawn(func() { run(n.life.ctx) })
	}
	if n.member != nil {
		n.member.begin()
	}
	for _, target := range n.cfg.WaitFor {
		n.awaits.set(target, nil)
		n.life.spawn(func() { n.awaits.await(n.life.ctx, target, n.tryTarget) })
	}
	return nil
}

func (n *Node) key() key.NodePrivate { return n.plane.key() }

// setKey changes the node key. Peers reach the node again once they have learned the new key.
func (n *Node) setKey(k key.NodePrivate) { n.plane.setKey(k) }

// SetMap makes m the network map. Connections that both maps allow are not disturbed. A map whose
// relays are invalid is refused.
func (n *Node) SetMap(m NetworkMap) error {
	err := n.plane.setMap(m)
	notify(n.endpoints.mapc)
	notify(n.stun.mapc)
	return err
}

// DiscoKey is the key that peers need, besides the node key, to reach this node directly.
func (n *Node) DiscoKey() key.DiscoPublic { return n.plane.conn.DiscoKey() }

// UDPPort is the port of the node's UDP sockets.
func (n *Node) UDPPort() uint16 { return n.plane.conn.LocalPort() }

// HTTPClient returns a client whose connections are dialled with DialContext.
func (n *Node) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: n.DialContext, ForceAttemptHTTP2: true}}
}

// Run waits for ctx and closes the node. It returns an error if the node ended by itself.
func (n *Node) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return n.Close()
	case err := <-n.failc:
		n.Close()
		return err
	case <-n.life.ctx.Done():
	case <-n.plane.peers.dev.Done():
		if !n.life.isClosed() { // otherwise Close has closed the device
			n.Close()
			return errors.New("node: WireGuard has stopped")
		}
	}
	return n.Close()
}

// fail ends Run with err. Only the first error counts.
func (n *Node) fail(err error) {
	select {
	case n.failc <- err:
	default:
	}
}

// Close ends the node: listeners, connections and tunnels. It may be called again.
func (n *Node) Close() error {
	n.life.close(n.shutDown)
	if n.member != nil {
		n.member.talk.stop()
	}
	return nil
}

// shutDown closes what start has opened, beginning with the listeners.
func (n *Node) shutDown() {
	if n.member != nil {
		n.member.client.Close()
	}
	n.ingress.close()
	n.dialer.doh.http.CloseIdleConnections()
	n.plane.close()
}
