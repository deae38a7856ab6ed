package node

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"ginnel/key"
)

// endpointKeeper resolves the names of plain peers' endpoints: when a peer is new, and when it is
// silent. It also brings WireGuard up.
type endpointKeeper struct {
	cfg   *Config
	log   *slog.Logger
	plane *dataPlane
	races *endpointRaces
	mapc  chan struct{} // capacity 1; has an item after a change of the map

	unresolved peerMap[error] // why the name of a peer's endpoint has no address
}

func newEndpointKeeper(n *Node) *endpointKeeper {
	return &endpointKeeper{cfg: &n.cfg, log: n.log, plane: n.plane, mapc: make(chan struct{}, 1),
		races: &endpointRaces{life: n.life, peers: &n.plane.peers}}
}

const (
	silenceCheck   = time.Second      // least time between two checks of plain peers
	silenceLimit   = 3 * time.Second  // of sending without an answer, after which the name is looked up again
	deadLimit      = 15 * time.Second // of the same, after which the next address is used; WireGuard ends the session then
	firstLookups   = 3 * time.Second  // bounds the lookups of all names when a node starts
	lookupTimeout  = 5 * time.Second  // of one name
	lookupPause    = 5 * time.Second  // between two lookups of a name, doubled as long as the peer is silent
	lookupPauseMax = time.Minute
)

// silenceWatch decides when the name of a plain peer's endpoint is looked up. It has no clock.
type silenceWatch struct {
	rx      uint64    // bytes received, at the last check
	txHeard uint64    // bytes sent, when something was last received
	silent  time.Time // since when the peer owes an answer; zero if it does not
	next    time.Time // no lookup before
	pause   time.Duration
}

// lookupReason is why the name of an endpoint is looked up.
type lookupReason int

const (
	lookupNone  lookupReason = iota // no lookup is needed
	lookupMoved                     // the name may have other addresses now
	lookupDead                      // the address in use may be one that does not work: take the next one
)

// observe takes the session of the peer.
func (w *silenceWatch) observe(now time.Time, s session) lookupReason {
	if s.rx != w.rx {
		*w = silenceWatch{rx: s.rx, txHeard: s.tx}
		return lookupNone
	}
	if s.endpoint.IsValid() && s.tx == w.txHeard {
		w.silent = time.Time{} // nothing was sent that needs an answer
		return lookupNone
	}
	if w.silent.IsZero() {
		w.silent = now
	}
	if s.endpoint.IsValid() && now.Sub(w.silent) < silenceLimit || now.Before(w.next) {
		return lookupNone
	}
	w.pause = min(max(lookupPause, 2*w.pause), lookupPauseMax)
	w.next = now.Add(w.pause)
	if now.Sub(w.silent) >= deadLimit {
		return lookupDead
	}
	return lookupMoved
}

// due returns when observe has to be called again even if nothing more is sent to the peer; zero
// means never.
func (w *silenceWatch) due() time.Time {
	if w.silent.IsZero() {
		return time.Time{}
	}
	if at := w.silent.Add(silenceLimit); at.After(w.next) {
		return at
	}
	return w.next
}

// run keeps the endpoints until ctx ends.
func (e *endpointKeeper) run(ctx context.Context) {
	e.lookUpAll(ctx)
	e.plane.bringUp()
	watches := make(map[key.NodePublic]*silenceWatch)
	for {
		var sentc <-chan struct{} // nil without such peers
		var next time.Time
		if named := e.namedPeers(); len(named) > 0 {
			sentc = e.plane.conn.WatchAddressSends() // before the check, which may miss what is sent during it
			next = e.check(ctx, named, watches)
		}
		if !e.await(ctx, sentc, next) {
			return
		}
	}
}

// lookUpAll resolves the names before WireGuard is up, because an initiation that has no address is
// repeated only after 5 s. Lookups that take long, or fail, are repeated later.
func (e *endpointKeeper) lookUpAll(ctx context.Context) {
	named := e.namedPeers()
	if len(named) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firstLookups)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range named {
		wg.Go(func() { e.lookup(ctx, p, session{}, lookupMoved) })
	}
	wg.Wait()
}

// await waits until plain peers have to be checked: at next, unless it is zero; silenceCheck after
// a send, which sentc signals; or when the map has changed. It reports false when ctx has ended.
func (e *endpointKeeper) await(ctx context.Context, sentc <-chan struct{}, next time.Time) bool {
	timer := time.NewTimer(max(silenceCheck, time.Until(next)))
	defer timer.Stop()
	duec := timer.C
	if next.IsZero() {
		timer.Stop()
	}
	for {
		select {
		case <-duec:
			return true
		case <-sentc:
			sentc = nil
			timer.Reset(silenceCheck)
		case <-e.mapc:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// namedPeers returns the plain peers whose endpoint is a name.
func (e *endpointKeeper) namedPeers() (named []*Peer) {
	m := e.plane.netmap.Load()
	for i := range m.Peers {
		p := &m.Peers[i]
		if _, isAddr := p.Endpoint.addrPort(); p.Plain && p.Endpoint.Host != "" && !isAddr {
			named = append(named, p)
		}
	}
	return named
}

// check looks up the names that need it. It returns when it has to be called again even if nothing
// more is sent; zero means never.
func (e *endpointKeeper) check(ctx context.Context, named []*Peer,
	watches map[key.NodePublic]*silenceWatch) (next time.Time) {
	sessions := e.plane.peers.sessions()
	maps.DeleteFunc(watches, func(k key.NodePublic, _ *silenceWatch) bool { _, ok := sessions[k]; return !ok })
	var wg sync.WaitGroup // a slow lookup must not delay the others
	defer wg.Wait()
	for _, p := range named {
		s, ok := sessions[p.Key]
		if !ok {
			continue
		}
		if watches[p.Key] == nil {
			watches[p.Key] = new(silenceWatch)
		}
		w := watches[p.Key]
		if why := w.observe(time.Now(), s); why != lookupNone {
			wg.Go(func() { e.lookup(ctx, p, s, why) })
		}
		if at := w.due(); next.IsZero() || !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	return next
}

// lookup looks up the name of p's endpoint and, if another address is to be used, sets it.
func (e *endpointKeeper) lookup(ctx context.Context, p *Peer, s session, why lookupReason) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := e.cfg.lookupHost(ctx, p.Endpoint.Host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("the name has no address")
	}
	if err != nil {
		e.log.Warn("looking up the endpoint of a peer", "peer", p.display(), "host", p.Endpoint.Host, "err", err)
		e.unresolved.store(p.Key, err)
		return
	}
	e.unresolved.delete(p.Key)
	next := netip.AddrPortFrom(nextAddr(addrs, s.endpoint.Addr(), why), p.Endpoint.Port)
	if next == s.endpoint {
		return
	}
	e.plane.peers.setEndpoint(p.Key, next)
	if s.handshake.IsZero() && why != lookupDead { // for a dead address, the last race has these addresses already
		e.races.set(p, addrs, next)
	}
	if !s.endpoint.IsValid() {
		e.log.Info("peer endpoint found", "peer", p.display(), "host", p.Endpoint.Host, "endpoint", next)
		return
	}
	e.log.Info("peer endpoint changed", "peer", p.display(), "host", p.Endpoint.Host, "from", s.endpoint, "to", next)
}

// lookupError returns why the name of a peer's endpoint has no address; nil if it has one, or was
// never looked up.
func (e *endpointKeeper) lookupError(p *Peer) error {
	err, _ := e.unresolved.load(p.Key)
	return err
}

// nextAddr chooses an address: the current one as long as it is listed, and the one after it if it
// is dead.
func nextAddr(addrs []netip.Addr, current netip.Addr, why lookupReason) netip.Addr {
	for i, a := range addrs {
		if a.Unmap() == current.Unmap() {
			if why == lookupDead {
				i++
			}
			return addrs[i%len(addrs)].Unmap()
		}
	}
	return addrs[0].Unmap()
}
