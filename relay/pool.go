package relay

import (
	"context"
	"crypto/x509"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ginnel/key"
)

const (
	idleLimit    = 60 * time.Second // without sending: then a region other than the home is closed (8.3)
	idleInterval = 15 * time.Second // between two checks, while a region other than the home is in use
	pingLimit    = 3 * time.Second  // for the answer to a ping after a network change
)

// ErrUnknownRegion reports a packet for a region that the map does not have, to a peer whose
// packets came through no other region.
var ErrUnknownRegion = errors.New("relay: region is not in the map")

// PoolConfig configures a [Pool]. Key is required.
type PoolConfig struct {
	// Key is the node's key.
	Key key.NodePrivate
	// Receive gets the packets that came through a region, consecutive ones of one source together.
	// They are valid only during the call. Each region calls Receive from one goroutine, which
	// reads nothing more until it returns. nil discards the packets.
	Receive func(region int, from key.NodePublic, packets [][]byte)
	// Log gets connections and failures; nil discards them.
	Log *slog.Logger
	// Roots, Proxy, DialProxy and DialContext are as in [ClientConfig].
	Roots       *x509.CertPool
	Proxy       func(relay *url.URL) (*url.URL, error)
	DialProxy   func(ctx context.Context, proxy *url.URL, addr string) (net.Conn, error)
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// LocalAddrs lists the addresses of the machine; nil asks the system.
	LocalAddrs func() ([]netip.Addr, error)
}

func (c *PoolConfig) client() ClientConfig {
	return ClientConfig{Key: c.Key, Log: c.Log, Roots: c.Roots,
		Proxy: c.Proxy, DialProxy: c.DialProxy, DialContext: c.DialContext}
}

func (c *PoolConfig) localAddrs() ([]netip.Addr, error) {
	if c.LocalAddrs != nil {
		return c.LocalAddrs()
	}
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, n := range nets {
		if p, ok := n.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(p.IP); ok {
				addrs = append(addrs, a.Unmap())
			}
		}
	}
	return addrs, nil
}

// Pool holds a node's connections to relays, at most one for each region of the map. The connection
// to the home region is kept all the time. The others are made when there is something to send, and
// closed 60 to 75 s after the last packet was sent (8.3).
type Pool struct {
	cfg        atomic.Pointer[ClientConfig] // never modified; replaced under mu
	local      func() ([]netip.Addr, error)
	deliver    func(region int, from key.NodePublic, packets [][]byte)
	log        *slog.Logger
	routes     routeTable
	ctx        context.Context // ended by Close
	cancel     context.CancelFunc
	wg         sync.WaitGroup
	idleCheckc chan struct{} // has an item when closeIdleRegions must begin to check; capacity 1

	regions atomic.Pointer[map[int]*region] // never modified; replaced under mu

	home atomic.Int64 // region id, 0 if there is none

	mu      sync.Mutex
	closed  bool
	changec chan struct{} // closed at the next change of the status
}

// NewPool returns a pool. It connects only when it has a map, and a home or something to send.
func NewPool(cfg PoolConfig) *Pool {
	client := cfg.client()
	p := &Pool{local: cfg.localAddrs, deliver: cfg.Receive, log: client.log(), idleCheckc: make(chan struct{}, 1),
		changec: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.cfg.Store(&client)
	if p.deliver == nil {
		p.deliver = discardPackets
	}
	p.regions.Store(new(map[int]*region))
	p.wg.Go(p.closeIdleRegions)
	return p
}

// discardPackets is the default of PoolConfig.Receive.
func discardPackets(int, key.NodePublic, [][]byte) {}

// SetMap replaces the map, which must not be modified afterwards. Connections to regions that have
// changed are closed. The home is connected to again if it is still in the map.
func (p *Pool) SetMap(m Map) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	old := *p.regions.Load()
	regions := make(map[int]*region, len(m.Regions))
	for id, entry := range m.Regions {
		if entry == nil {
			continue
		}
		if r := old[id]; r != nil && reflect.DeepEqual(r.entry, entry) {
			regions[id] = r
			continue
		}
		regions[id] = newRegion(p, id, entry)
	}
	p.regions.Store(&regions)
	p.mu.Unlock()
	for id, r := range old {
		if regions[id] != r {
			r.close()
		}
	}
	p.applyHome()
}

// SetKey replaces the node's key and makes all connections anew.
func (p *Pool) SetKey(k key.NodePrivate) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	cfg := *p.cfg.Load()
	cfg.Key = k
	p.cfg.Store(&cfg)
	old := *p.regions.Load()
	regions := make(map[int]*region, len(old))
	for id, r := range old {
		regions[id] = newRegion(p, id, r.entry)
	}
	p.regions.Store(&regions)
	p.mu.Unlock()
	for _, r := range old {
		r.close()
	}
	p.applyHome()
}

// SetHome makes a region the home: its connection is kept, and its relay is told. 0 means no home.
// A region that is not in the map becomes the home when a map brings it.
func (p *Pool) SetHome(region int) {
	p.home.Store(int64(region))
	p.applyHome()
	p.startIdleCheck() // the old home may be idle now
}

// applyHome makes all regions act on the current home.
func (p *Pool) applyHome() {
	for _, r := range *p.regions.Load() {
		r.applyHome()
	}
	p.changed()
}

// Send sends packets to a peer whose home is region. It sends through that region if it is
// connected, else through a connected region through which packets of the peer came, else through
// region as soon as it is connected. region is 0 if the home is unknown. Send never waits for the
// network. If too much is queued it waits 20 ms at most; then packets are dropped and counted.
// Errors are net.ErrClosed, [ErrUnknownRegion], and one for packets larger than [MaxPacket], which
// are left out.
func (p *Pool) Send(region int, to key.NodePublic, packets [][]byte) error {
	for {
		r := p.choose(region, to)
		if r == nil {
			break
		}
		err := r.send(to, packets)
		if !errors.Is(err, net.ErrClosed) || p.choose(region, to) == r {
			return err
		}
		// SetMap or SetKey has just replaced the region.
	}
	select {
	case <-p.ctx.Done():
		return net.ErrClosed
	default:
		return ErrUnknownRegion
	}
}

// choose returns the region to send through, or nil if there is none.
func (p *Pool) choose(id int, to key.NodePublic) *region {
	r := (*p.regions.Load())[id]
	if r != nil && r.connected.Load() {
		return r
	}
	if heard := p.routes.get(to); heard != nil && heard.connected.Load() {
		return heard
	}
	return r
}

// NetworkChanged makes the pool check its connections. A connection is closed if the machine no
// longer has its local address, or if a ping on it is not answered within 3 s. The home is
// connected to again at once.
func (p *Pool) NetworkChanged() {
	addrs, err := p.local()
	if err != nil {
		p.log.Warn("local addresses not listed", "err", err)
	}
	isLocal := func(a netip.Addr) bool { return err != nil || slices.Contains(addrs, a) }
	for _, r := range *p.regions.Load() {
		r.networkChanged(isLocal)
	}
}

// startIdleCheck makes closeIdleRegions check until only the home is in use.
func (p *Pool) startIdleCheck() {
	select {
	case p.idleCheckc <- struct{}{}:
	default:
	}
}

// closeIdleRegions closes idle regions until the pool is closed. No timer runs while only the home
// is in use.
func (p *Pool) closeIdleRegions() {
	timer := time.NewTimer(idleInterval)
	defer timer.Stop()
	due := timer.C
	for {
		select {
		case <-p.idleCheckc:
			if due == nil {
				timer.Reset(idleInterval)
				due = timer.C
			}
		case now := <-due:
			due = nil
			if p.closeIdle(now) {
				timer.Reset(idleInterval)
				due = timer.C
			}
		case <-p.ctx.Done():
			return
		}
	}
}

// closeIdle closes idle regions. It reports whether regions other than the home are in use.
func (p *Pool) closeIdle(now time.Time) (inUse bool) {
	for _, r := range *p.regions.Load() {
		inUse = r.closeIdle(now) || inUse
	}
	return inUse
}

// PoolStatus is a snapshot of a pool.
type PoolStatus struct {
	Home    int            // region, 0 if there is none
	Regions []RegionStatus // in ascending order of their ids
}

// Status returns a snapshot.
func (p *Pool) Status() PoolStatus {
	st := PoolStatus{Home: int(p.home.Load())}
	regions := *p.regions.Load()
	for _, id := range slices.Sorted(maps.Keys(regions)) {
		st.Regions = append(st.Regions, regions[id].status())
	}
	return st
}

// Watch yields a snapshot at once, and another one whenever a connection or the home changes. A
// change of counters alone is not reported. A slow caller misses intermediate snapshots, but never
// the last one. The iteration ends with ctx and with the pool.
func (p *Pool) Watch(ctx context.Context) iter.Seq[PoolStatus] {
	return func(yield func(PoolStatus) bool) {
		for {
			p.mu.Lock()
			changec, closed := p.changec, p.closed
			p.mu.Unlock()
			if closed || ctx.Err() != nil || !yield(p.Status()) {
				return
			}
			select {
			case <-changec:
			case <-ctx.Done():
			}
		}
	}
}

// changed wakes the callers of Watch.
func (p *Pool) changed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changec)
	p.changec = make(chan struct{})
}

// Close closes all connections and waits until everything has ended, including calls of Receive. It
// must not be called from there.
func (p *Pool) Close() error {
	p.mu.Lock()
	again := p.closed
	p.closed = true
	p.mu.Unlock()
	if !again {
		p.cancel()
		for _, r := range *p.regions.Load() {
			r.close()
		}
		p.changed()
	}
	p.wg.Wait()
	return nil
}
