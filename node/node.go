// Package node is one member of a mesh in one process: it assembles the TCP/IP stack, WireGuard,
// the transport, the relays and the local proxies, and keeps them agreed with the network map. It
// holds no protocol of its own.
//
// Goroutines: those of its parts; one for each listener; three that look after the network
// (upkeep.go, stun.go, netmon.go); those that dial the addresses of a name, or out of the mesh; and
// one for each target that is waited for. Close ends and awaits all.
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
	"sync"
	"sync/atomic"
	"time"

	"ginnel/internal/resolver"
	"ginnel/key"
	"ginnel/proxy"
	"ginnel/relay"
	"ginnel/transport"
	"ginnel/tuning"
	"ginnel/userstack"
	"ginnel/wireguard"
)

// DefaultDialTimeout bounds a connection through the proxies.
const DefaultDialTimeout = 30 * time.Second

// PacketConn is a UDP socket as a node uses it. *net.UDPConn is one.
type PacketConn = transport.PacketConn

// Config is what New needs: Key and Map, or Control.
type Config struct {
	Key key.NodePrivate
	Map NetworkMap

	Control *Control // nil: Map is all there is, and SetMap

	MTU       int        // of the tunnel, in bytes; 0: 1420
	UDPPort   uint16     // 0 picks one
	UDPAddr   netip.Addr // invalid: all addresses of the host
	RelayOnly bool       // no UDP
	MeshOnly  bool       // destinations outside the mesh are refused
	WaitFor   []string   // the node is not ready before each has answered: host:port to a connection, a host to a ping

	Proxies      []net.Addr                       // where to offer SOCKS5 and HTTP: "tcp" or "unix" addresses
	ProxyAuth    func(user, password string) bool // nil: none asked for, and loopback or unix listeners only
	UserProxy    net.Addr                         // of a proxy without a password, for programs of this user; nil or not Linux: none
	Associations int                              // of UDP that the proxy serves at a time; 0: 256, or fewer with little Memory
	DialTimeout  time.Duration                    // 0: DefaultDialTimeout
	Memory       int64                            // bytes for the process, which size buffers and queues; 0: Tuning's, or no bound
	Congestion   Congestion                       // how fast TCP connections in the mesh send; zero: BBR
	Processors   int                              // to plan for; 0: those of Tuning, or GOMAXPROCS when New is called
	Forwards     []Forward
	DNS          net.Addr // where to answer DNS questions, over UDP and TCP; nil: nowhere
	Serves       []Serve
	Tuning       *tuning.Process // from tuning.Start; nil: the process is not tuned
	Token        string          // what the local API asks for where it changes something; empty: such requests are refused
	Shutdown     func()          // called when the local API is told to end the node; nil: it cannot be told so

	// OutboundProxy names the proxy for a URL outside the mesh, relays included; nil: none. See
	// internal/egress.
	OutboundProxy func(*url.URL) (*url.URL, error)
	Roots         *x509.CertPool // trusted for relays besides the system's

	// ListenUDP opens the UDP sockets, for "udp4" and "udp6"; nil: the system does, and batches.
	ListenUDP func(network string, addr netip.AddrPort) (PacketConn, error)

	// DialHost connects to what is outside the mesh; nil: the system does.
	DialHost func(ctx context.Context, network, addr string) (net.Conn, error)

	// LookupHost resolves the names of endpoints and STUN servers; nil: the system's resolver.
	LookupHost func(ctx context.Context, host string) ([]netip.Addr, error)

	Version string       // of the program, as the status and the coordination server show it
	Log     *slog.Logger // nil discards
	ConnLog *slog.Logger // gets a line for each proxied connection; nil discards
}

// Forward is a local port whose connections, or datagrams, are carried to Target, which may be a
// name of the mesh.
type Forward struct {
	Listen net.Addr // "tcp", "unix" or "udp"
	Target string   // host:port
}

// Serve is a port of this node in the mesh that leads to Target on this machine: a "tcp", "unix" or
// "udp" address.
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
	cfg Config
	log *slog.Logger

	stack *userstack.Stack
	pool  *relay.Pool
	conn  *transport.Conn
	wg0   tunnels
	proxy *proxy.Server

	mapMu  sync.Mutex // serializes SetMap
	netmap atomic.Pointer[NetworkMap]
	routes atomic.Pointer[routes]
	names  resolver.Resolver // of the map's DNS servers
	doh    *dohClient        // asks those that have a URL

	strangers        strangers
	rejections       rejections
	private          atomic.Pointer[key.NodePrivate] // our key of now
	checking         atomic.Bool                     // a check of the network runs for the API
	foreignDatagrams atomic.Uint64                   // of hosts that no association has sent anything to
	unresolved       sync.Map                        // key.NodePublic to error: why the name of a plain peer's endpoint has no address
	relayPongs       sync.Map                        // key.NodePublic to time.Time: the last answer to a ping by way of the relay
	contenders       sync.Map                        // key.NodePublic to []netip.AddrPort: what raceEndpoint has to try

	entries []entry          // written by start only
	local   []netip.AddrPort // TCP listeners on this machine; not changed once openListeners is done
	started time.Time
	// Each has capacity 1: news for keepEndpoints and keepSTUN that the map has changed.
	peersChanged, relaysChanged chan struct{}

	member  *membership // nil without a coordination server
	router  *router     // nil unless routes are advertised
	exitDNS *exitDNS    // nil unless this is an exit node
	awaits  awaits      // what the node waits for before it is ready

	failc  chan error    // has an item when the node cannot go on
	upc    chan struct{} // closed once WireGuard is up
	closec chan struct{}
	cancel context.CancelFunc // ends what upkeep does
	once   sync.Once
	lifeMu sync.Mutex // makes spawn and the closing of closec exclude each other
	wg     sync.WaitGroup
}

// New starts a node: it opens its listeners and sockets, and connects to what the map names in the
// background.
func New(cfg Config) (*Node, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.useTuning()
	n := &Node{
		cfg:           cfg,
		log:           cfg.log(),
		peersChanged:  make(chan struct{}, 1),
		relaysChanged: make(chan struct{}, 1),
		failc:         make(chan error, 1),
		upc:           make(chan struct{}),
		closec:        make(chan struct{}),
		started:       time.Now(),
	}
	n.private.Store(&n.cfg.Key)
	n.doh = newDoHClient(n)
	n.names = resolver.Resolver{Dial: n.dialAddr, Post: n.doh.post}
	if err := cfg.Tuning.WithAllPs(n.start); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Node) key() key.NodePrivate { return *n.private.Load() }

// setKey makes the node known by another key, which its peers have to learn.
func (n *Node) setKey(k key.NodePrivate) {
	n.mapMu.Lock()
	defer n.mapMu.Unlock()
	n.private.Store(&k)
	n.conn.SetNodeKey(k.Public())
	n.pool.SetKey(k)
	n.wg0.dev.SetKey(k)
}

func (n *Node) start() error {
	if err := n.openListeners(); err != nil {
		return err
	}
	if err := n.openData(); err != nil {
		return err
	}
	if err := n.SetMap(n.cfg.Map); err != nil {
		return err
	}
	if n.cfg.Control != nil {
		var err error
		if n.member, err = newMembership(n); err != nil {
			return err
		}
	}
	if err := n.openServes(); err != nil {
		return err
	}
	n.serveEntries()
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	n.wg.Go(func() { n.keepEndpoints(ctx) })
	n.wg.Go(func() { n.keepSTUN(ctx) })
	n.wg.Go(func() { n.watchNetwork(ctx) })
	n.wg.Go(func() { n.watchRelays(ctx) })
	if n.member != nil {
		n.member.begin()
	}
	for _, target := range n.cfg.WaitFor {
		n.awaits.set(target, nil)
		n.wg.Go(func() { n.awaitTarget(ctx, target) })
	}
	return nil
}

// openData builds the way of a packet: stack, WireGuard, transport, relays.
func (n *Node) openData() (err error) {
	n.router = newRouter(n)
	n.stack, err = userstack.New(userstack.Config{
		MTU:        n.cfg.MTU,
		Buffers:    n.cfg.buffers(),
		Congestion: n.cfg.Congestion,
		Batch:      n.cfg.batch(),
		Peer:       n.peerOf,
		Queues:     n.cfg.lanes(),
		Router:     n.router.stackConfig(),
		AnswerTSMP: n.cfg.Control != nil,
		Rejected:   n.rejections.hear,
		Activity:   n.cfg.Tuning,
		Traffic:    n.reportTraffic,
	})
	if err != nil {
		return err
	}
	if err := n.openExitDNS(); err != nil {
		return err
	}
	n.stack.SetFilter(n.accepts)
	n.pool = relay.NewPool(relay.PoolConfig{
		Key:       n.cfg.Key,
		Log:       n.log,
		Roots:     n.cfg.Roots,
		Proxy:     n.outboundProxy,
		DialProxy: n.dialer().Dial,
		Receive:   n.receiveRelayed,
	})
	n.conn, err = transport.New(transport.Config{
		NodeKey: n.key().Public(),
		Addr:    n.cfg.UDPAddr,
		Port:    n.cfg.UDPPort,
		Lanes:   n.cfg.lanes(),
		NoUDP:   n.cfg.RelayOnly,
		Listen:  n.cfg.ListenUDP,
		Yield:   n.cfg.Tuning.Yield,
		Relay:   n.pool,
		Contact: func(k key.NodePublic) { n.wg0.wake(k) },

		PathChanged: n.pathChanged,
		PeerBack:    n.peerBack,
		Log:         n.log,
	})
	if err != nil {
		return err
	}
	n.wg0.conn = n.conn
	n.wg0.dev = wireguard.New(stackTun{n.stack.Device()}, n.conn, n.cfg.Key, n.log)
	return nil
}

// receiveRelayed is called by the pool, which exists before the transport does but has no relays
// until SetMap.
func (n *Node) receiveRelayed(region int, from key.NodePublic, packets [][]byte) {
	if n.member != nil && !n.routes.Load().keys[from] {
		n.strangers.keep(time.Now(), region, from, packets)
		return
	}
	n.wg0.wake(from)
	n.conn.HandleRelayed(region, from, packets)
}

// receiveStrangers receives what came from nodes before the map knew them.
func (n *Node) receiveStrangers() {
	known := n.routes.Load().keys
	for _, p := range n.strangers.take(time.Now(), func(k key.NodePublic) bool { return known[k] }) {
		n.receiveRelayed(p.region, p.from, [][]byte{p.b})
	}
}

// SetMap makes m the network map, unless its relays make no sense. What m and the map before have
// in common is not disturbed.
func (n *Node) SetMap(m NetworkMap) error {
	if err := m.Relays.Validate(); err != nil {
		return err
	}
	n.mapMu.Lock()
	defer n.mapMu.Unlock()
	if n.isClosed() {
		return net.ErrClosed
	}
	var errs []error
	errs = append(errs, n.stack.SetAddrs(m.Addresses))
	n.pool.SetMap(m.Relays)
	n.pool.SetHome(m.Home)
	n.conn.SetPeers(transportPeers(m.Peers))
	n.wg0.configure(m.Peers)
	n.netmap.Store(&m)
	routes := newRoutes(&m)
	n.routes.Store(routes)
	n.relayPongs.Range(func(k, _ any) bool {
		if !routes.keys[k.(key.NodePublic)] {
			n.relayPongs.Delete(k)
		}
		return true
	})
	notify(n.peersChanged)
	notify(n.relaysChanged)
	n.receiveStrangers()
	return errors.Join(errs...)
}

// transportPeers are the peers that take part in discovery.
func transportPeers(peers []Peer) []transport.Peer {
	var out []transport.Peer
	for _, p := range peers {
		if !p.Plain {
			out = append(out, transport.Peer{Key: p.Key, Disco: p.Disco, Endpoints: p.Endpoints, Region: p.Region})
		}
	}
	return out
}

// DiscoKey is what peers must know of this node, besides its node key, to reach it directly.
func (n *Node) DiscoKey() key.DiscoPublic { return n.conn.DiscoKey() }

// UDPPort is the port of the node's UDP socket.
func (n *Node) UDPPort() uint16 { return n.conn.LocalPort() }

// HTTPClient returns a client whose connections go the way of DialContext.
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
	case <-n.closec:
	case <-n.wg0.dev.Done():
		if !n.isClosed() { // else it was stopped by that
			n.Close()
			return errors.New("node: WireGuard has stopped")
		}
	}
	return n.Close()
}

// fail ends Run with err.
func (n *Node) fail(err error) {
	select {
	case n.failc <- err:
	default: // there is a reason already
	}
}

// begin counts the caller among the goroutines that Close awaits, until it calls wg.Done. It
// reports false if the node is closed.
func (n *Node) begin() bool {
	n.lifeMu.Lock()
	defer n.lifeMu.Unlock()
	if n.isClosed() {
		return false
	}
	n.wg.Add(1)
	return true
}

// spawn starts a goroutine for a caller's work, which Close awaits. It reports false if the node is
// closed.
func (n *Node) spawn(f func()) bool {
	if !n.begin() {
		return false
	}
	defer n.wg.Done()
	n.wg.Go(f)
	return true
}

func (n *Node) isClosed() bool { return isClosed(n.closec) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Close ends the node: listeners, connections, tunnels. It may be called again.
func (n *Node) Close() error {
	n.once.Do(n.shutDown)
	if n.member != nil {
		n.member.stop()
	}
	n.wg.Wait()
	return nil
}

// shutDown closes what start opened, from the outside in. Any part may be missing if start failed.
func (n *Node) shutDown() {
	n.lifeMu.Lock()
	close(n.closec)
	n.lifeMu.Unlock()
	if n.cancel != nil {
		n.cancel()
	}
	if n.member != nil {
		n.member.client.Close()
	}
	for _, e := range n.entries {
		e.closer.Close()
	}
	n.doh.http.CloseIdleConnections()
	if n.proxy != nil {
		n.proxy.Close()
	}
	if n.pool != nil {
		n.pool.Close() // before those that send, so that none waits for a relay
	}
	if n.stack != nil {
		n.stack.Close()
	}
	if n.wg0.dev != nil {
		n.wg0.dev.Close()
	}
	if n.conn != nil {
		n.conn.Close()
	}
}
