package node

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"ginnel/key"
	"ginnel/wireguard"
)

// The addresses behind the names of plain peers' endpoints.

const (
	silenceCheck   = time.Second      // at least, between two looks at plain peers
	silenceLimit   = 3 * time.Second  // sending without an answer for so long makes a name be looked up again
	deadLimit      = 15 * time.Second // and for so long, another address of that name be tried: WireGuard, too, gives up a session then
	firstLookups   = 3 * time.Second  // of all names, when a node starts
	lookupTimeout  = 5 * time.Second  // of one name
	lookupPause    = 5 * time.Second  // between look-ups, doubled up to lookupPauseMax while the peer stays silent
	lookupPauseMax = time.Minute
)

// plainPeer is what keepEndpoints remembers of a plain peer whose endpoint is a name.
type plainPeer struct {
	rx      uint64    // bytes received when last looked at
	txHeard uint64    // bytes sent when it was last heard from
	silent  time.Time // since when it has not answered; zero: it has
	next    time.Time // no look-up before
	pause   time.Duration
}

// suspicion is what a peer's silence calls for.
type suspicion int

const (
	unsuspected suspicion = iota
	moved                 // its name may lead elsewhere now
	dead                  // the address it has may be one of several that does not work
)

// observe takes the peer's counters.
func (p *plainPeer) observe(now time.Time, s wireguard.PeerState) suspicion {
	if s.Rx != p.rx {
		*p = plainPeer{rx: s.Rx, txHeard: s.Tx}
		return unsuspected
	}
	if s.Endpoint != "" && s.Tx == p.txHeard {
		p.silent = time.Time{} // nothing was asked of it
		return unsuspected
	}
	if p.silent.IsZero() {
		p.silent = now
	}
	if s.Endpoint != "" && now.Sub(p.silent) < silenceLimit || now.Before(p.next) {
		return unsuspected
	}
	p.pause = min(max(lookupPause, 2*p.pause), lookupPauseMax)
	p.next = now.Add(p.pause)
	if now.Sub(p.silent) >= deadLimit {
		return dead
	}
	return moved
}

// due is when observe has to be called again although nothing more is sent to the peer; zero means
// never. A peer that owes no answer is observed after the next send.
func (p *plainPeer) due() time.Time {
	if p.silent.IsZero() {
		return time.Time{}
	}
	if at := p.silent.Add(silenceLimit); at.After(p.next) {
		return at
	}
	return p.next
}

// bringUp sets WireGuard going once the names of plain peers are resolved: a handshake that finds
// no address is tried again only after five seconds. What takes long, or fails, is left to
// keepEndpoints.
func (n *Node) bringUp(ctx context.Context) {
	defer close(n.upc)
	if named := n.namedPeers(); len(named) > 0 {
		ctx, cancel := context.WithTimeout(ctx, firstLookups)
		defer cancel()
		var wg sync.WaitGroup
		for _, p := range named {
			wg.Go(func() { n.findEndpoint(ctx, p, wireguard.PeerState{}, moved) })
		}
		wg.Wait()
	}
	if err := n.wg0.dev.Up(); err != nil {
		n.log.Error("starting WireGuard", "err", err)
		n.wg0.dev.Close() // which ends Run
	}
}

// awaitUp waits until packets can be sent.
func (n *Node) awaitUp(ctx context.Context) error {
	select {
	case <-n.upc:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.closec:
		return net.ErrClosed
	}
}

// keepEndpoints resolves the names of plain peers' endpoints: when a peer is new, and when it goes
// silent.
func (n *Node) keepEndpoints(ctx context.Context) {
	n.bringUp(ctx)
	known := make(map[key.NodePublic]*plainPeer)
	for {
		var sentc <-chan struct{} // nil without such peers
		var next time.Time
		if named := n.namedPeers(); len(named) > 0 {
			sentc = n.conn.WatchAddressSends() // before the look, which may not see what is sent during it
			next = n.checkEndpoints(ctx, named, known)
		}
		if !n.awaitCheck(ctx, sentc, next) {
			return
		}
	}
}

// awaitCheck waits until plain peers have to be looked at: at next, if it is not zero; some time
// after a send, which sentc tells of; or when the map has changed. It reports false when ctx has
// ended.
func (n *Node) awaitCheck(ctx context.Context, sentc <-chan struct{}, next time.Time) bool {
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
		case <-n.peersChanged:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// namedPeers are the plain peers whose endpoint is a name.
func (n *Node) namedPeers() (named []*Peer) {
	m := n.netmap.Load()
	for i := range m.Peers {
		p := &m.Peers[i]
		if _, isAddr := p.Endpoint.addrPort(); p.Plain && p.Endpoint.Host != "" && !isAddr {
			named = append(named, p)
		}
	}
	return named
}

// checkEndpoints looks up the names of peers that call for it, and returns when it has to be called
// again although nothing more is sent; zero means never.
func (n *Node) checkEndpoints(ctx context.Context, named []*Peer, known map[key.NodePublic]*plainPeer) (next time.Time) {
	sessions := n.wg0.dev.PeerStates()
	maps.DeleteFunc(known, func(k key.NodePublic, _ *plainPeer) bool { _, ok := sessions[k]; return !ok })
	var wg sync.WaitGroup // one name that takes long must not keep the others waiting for theirs
	defer wg.Wait()
	for _, p := range named {
		s, ok := sessions[p.Key]
		if !ok {
			continue
		}
		if known[p.Key] == nil {
			known[p.Key] = new(plainPeer)
		}
		of := known[p.Key]
		if why := of.observe(time.Now(), s); why != unsuspected {
			wg.Go(func() { n.findEndpoint(ctx, p, s, why) })
		}
		if at := of.due(); next.IsZero() || !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	return next
}

// findEndpoint looks up p's name and moves p if it leads elsewhere now.
func (n *Node) findEndpoint(ctx context.Context, p *Peer, s wireguard.PeerState, why suspicion) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := n.cfg.lookupHost(ctx, p.Endpoint.Host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("the name has no address")
	}
	if err != nil {
		n.log.Warn("looking up the endpoint of a peer", "peer", p.display(), "host", p.Endpoint.Host, "err", err)
		n.unresolved.Store(p.Key, err)
		return
	}
	n.unresolved.Delete(p.Key)
	current, _ := netip.ParseAddrPort(s.Endpoint)
	next := netip.AddrPortFrom(nextAddr(addrs, current.Addr(), why), p.Endpoint.Port)
	if next == current {
		return
	}
	n.wg0.setEndpoint(p.Key, next)
	if s.Handshake.IsZero() && why != dead { // else they are known
		n.setContenders(p, addrs, next)
	}
	if s.Endpoint == "" {
		n.log.Info("peer found", "peer", p.display(), "host", p.Endpoint.Host, "endpoint", next)
		return
	}
	n.log.Info("peer has moved", "peer", p.display(), "host", p.Endpoint.Host, "from", s.Endpoint, "to", next)
}

// lookupError is why the name of a plain peer's endpoint has no address; nil if it has one or none
// was looked for.
func (n *Node) lookupError(p *Peer) error {
	err, _ := n.unresolved.Load(p.Key)
	e, _ := err.(error)
	return e
}

// nextAddr is the address to use: current as long as it is listed and not dead, then the one after
// it.
func nextAddr(addrs []netip.Addr, current netip.Addr, why suspicion) netip.Addr {
	for i, a := range addrs {
		if a.Unmap() == current.Unmap() {
			if why == dead {
				i++
			}
			return addrs[i%len(addrs)].Unmap()
		}
	}
	return addrs[0].Unmap()
}
