package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/key"
	"ginnel/relay"
	"ginnel/transport"
	"ginnel/userstack"
	"ginnel/wireguard"
)

// dataPlane carries the packets of the mesh: the TCP/IP stack, WireGuard, the transport and the
// connections to relays, all agreed with one network map.
type dataPlane struct {
	cfg  *Config
	log  *slog.Logger
	life *lifetime
	host *hostDialer

	stack *userstack.Stack
	pool  *relay.Pool
	conn  *transport.Conn
	peers peerSet

	mapMu  sync.Mutex // serializes changes of the map, of the home relay and of the node key
	netmap atomic.Pointer[NetworkMap]
	routes atomic.Pointer[routes]

	private    atomic.Pointer[key.NodePrivate] // the node key in use
	early      earlyPackets
	rejections rejections
	relayPongs peerMap[time.Time] // when a peer last answered a ping that went through its relay
	upc        chan struct{}      // closed once WireGuard is up
}

func newDataPlane(cfg *Config, log *slog.Logger, life *lifetime, host *hostDialer) *dataPlane {
	p := &dataPlane{cfg: cfg, log: log, life: life, host: host, upc: make(chan struct{})}
	p.private.Store(&cfg.Key)
	return p
}

// open builds the parts, from the applications' side to the network's. Nothing is sent before the
// first map and bringUp. The caller closes the plane if open fails.
func (p *dataPlane) open(router *userstack.Router, filter userstack.Filter) (err error) {
	p.stack, err = userstack.New(userstack.Config{
		MTU:        p.cfg.MTU,
		Buffers:    p.cfg.buffers(),
		Congestion: p.cfg.Congestion,
		Batch:      p.cfg.batch(),
		Peer:       p.peerOf,
		Queues:     p.cfg.lanes(),
		Router:     router,
		AnswerTSMP: p.cfg.Control != nil,
		Rejected:   p.rejections.hear,
		Activity:   p.cfg.Tuning,
		Traffic:    p.reportTraffic,
	})
	if err != nil {
		return err
	}
	p.stack.SetFilter(filter)
	p.pool = relay.NewPool(relay.PoolConfig{
		Key:       p.cfg.Key,
		Log:       p.log,
		Roots:     p.cfg.Roots,
		Proxy:     p.host.proxyFor,
		DialProxy: p.host.egress().Dial,
		Receive:   p.receiveRelayed,
	})
	p.conn, err = transport.New(transport.Config{
		NodeKey: p.key().Public(),
		Addr:    p.cfg.UDPAddr,
		Port:    p.cfg.UDPPort,
		Lanes:   p.cfg.lanes(),
		NoUDP:   p.cfg.RelayOnly,
		Listen:  p.cfg.ListenUDP,
		Yield:   p.cfg.Tuning.Yield,
		Relay:   p.pool,
		Contact: func(k key.NodePublic) { p.peers.wake(k) },

		PathChanged: p.pathChanged,
		PeerBack:    p.peerBack,
		Log:         p.log,
	})
	if err != nil {
		return err
	}
	p.peers.conn = p.conn
	p.peers.dev = wireguard.New(stackTun{p.stack.Device()}, p.conn, p.cfg.Key, p.log)
	return nil
}

// close closes the parts that open has made.
func (p *dataPlane) close() {
	if p.pool != nil {
		p.pool.Close() // before the parts that send, so that none of them waits for a relay
	}
	if p.stack != nil {
		p.stack.Close()
	}
	if p.peers.dev != nil {
		p.peers.dev.Close()
	}
	if p.conn != nil {
		p.conn.Close()
	}
}

// bringUp starts WireGuard. If that fails, the device is closed, which ends Node.Run.
func (p *dataPlane) bringUp() {
	defer close(p.upc)
	if err := p.peers.dev.Up(); err != nil {
		p.log.Error("starting WireGuard", "err", err)
		p.peers.dev.Close()
	}
}

// awaitUp waits until packets can be sent.
func (p *dataPlane) awaitUp(ctx context.Context) error {
	select {
	case <-p.upc:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.life.ctx.Done():
		return net.ErrClosed
	}
}

func (p *dataPlane) key() key.NodePrivate { return *p.private.Load() }

// setKey changes the node key. Peers reach the node again once they have learned the new key.
func (p *dataPlane) setKey(k key.NodePrivate) {
	p.mapMu.Lock()
	defer p.mapMu.Unlock()
	p.private.Store(&k)
	p.conn.SetNodeKey(k.Public())
	p.pool.SetKey(k)
	p.peers.dev.SetKey(k)
}

// setMap makes m the network map. Connections and sessions that both maps allow are not disturbed.
// A map whose relays are invalid is refused.
func (p *dataPlane) setMap(m NetworkMap) error {
	if err := m.Relays.Validate(); err != nil {
		return err
	}
	p.mapMu.Lock()
	defer p.mapMu.Unlock()
	if p.life.isClosed() {
		return net.ErrClosed
	}
	var errs []error
	errs = append(errs, p.stack.SetAddrs(m.Addresses))
	p.pool.SetMap(m.Relays)
	p.pool.SetHome(m.Home)
	p.conn.SetPeers(transportPeers(m.Peers))
	p.peers.configure(m.Peers)
	p.netmap.Store(&m)
	routes := newRoutes(&m)
	p.routes.Store(routes)
	p.relayPongs.keep(routes.keys)
	p.receiveEarly()
	return errors.Join(errs...)
}

// transportPeers returns the peers that take part in discovery.
func transportPeers(peers []Peer) []transport.Peer {
	var out []transport.Peer
	for _, p := range peers {
		if !p.Plain {
			out = append(out, transport.Peer{Key: p.Key, Disco: p.Disco, Endpoints: p.Endpoints, Region: p.Region})
		}
	}
	return out
}

// setHome makes a region the home relay.
func (p *dataPlane) setHome(region int) {
	p.mapMu.Lock()
	defer p.mapMu.Unlock()
	m := *p.netmap.Load()
	m.Home = region
	p.netmap.Store(&m)
	p.pool.SetHome(region)
}

// homeStatus returns the state of the connection to the home relay; its Region is zero if there is
// no home.
func (p *dataPlane) homeStatus() relay.RegionStatus {
	s := p.pool.Status()
	for _, r := range s.Regions {
		if r.Region == s.Home {
			return r
		}
	}
	return relay.RegionStatus{}
}

// hasOtherHome reports whether the map has more than one region that may be the home.
func (p *dataPlane) hasOtherHome() bool {
	homes := 0
	for _, r := range p.netmap.Load().Relays.Regions {
		if !r.NoMeasureNoHome {
			homes++
		}
	}
	return homes > 1
}

// receiveRelayed takes packets from the pool. The pool exists before the transport does, but it
// receives nothing before the first map. Packets of senders that the map of a coordination server
// does not list are kept for a moment, because the map may be late.
func (p *dataPlane) receiveRelayed(region int, from key.NodePublic, packets [][]byte) {
	if p.cfg.Control != nil && !p.routes.Load().keys[from] {
		p.early.keep(time.Now(), region, from, packets)
		return
	}
	p.peers.wake(from)
	p.conn.HandleRelayed(region, from, packets)
}

// receiveEarly receives the packets whose senders the map lists by now.
func (p *dataPlane) receiveEarly() {
	known := p.routes.Load().keys
	for _, e := range p.early.take(time.Now(), func(k key.NodePublic) bool { return known[k] }) {
		p.receiveRelayed(e.region, e.from, [][]byte{e.b})
	}
}

// peerOf is userstack.Config.Peer: the first address of the peer that has a, or a itself.
func (p *dataPlane) peerOf(a netip.Addr) netip.Addr {
	if peer := p.routes.Load().peer(a); peer != nil && len(peer.Addresses) > 0 {
		return peer.Addresses[0].Addr()
	}
	return a
}

// currentPeer returns the peer with a key in the present map; nil if it is gone.
func (p *dataPlane) currentPeer(k key.NodePublic) *Peer {
	m := p.netmap.Load()
	if i := slices.IndexFunc(m.Peers, func(peer Peer) bool { return peer.Key == k }); i >= 0 {
		return &m.Peers[i]
	}
	return nil
}

// networkChanged has the transport and the relays look at the host's network again.
func (p *dataPlane) networkChanged() {
	p.conn.NetworkChanged()
	p.pool.NetworkChanged()
}
