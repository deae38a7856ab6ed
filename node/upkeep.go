package node

import (
	"context"
	"net/netip"
	"time"

	"ginnel/internal/key"
)

// What a node looks after besides packets: the addresses behind the names of plain peers and of STUN servers, and
// changes of the host's network.

const (
	silenceCheck   = 2 * time.Second // how often plain peers are looked at
	silenceLimit   = 5 * time.Second // sending without an answer for so long makes a name be looked up again
	lookupTimeout  = 5 * time.Second // of one name
	lookupPause    = 5 * time.Second // after a look-up, doubled up to lookupPauseMax while the peer stays silent
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

// observe takes the peer's counters and reports whether its name should be looked up.
func (p *plainPeer) observe(now time.Time, s session) (lookUp bool) {
	if s.rx != p.rx {
		*p = plainPeer{rx: s.rx, txHeard: s.tx, pause: lookupPause}
		return false
	}
	if s.endpoint != "" && s.tx == p.txHeard {
		return false // nothing was asked of it
	}
	if p.silent.IsZero() {
		p.silent = now
	}
	if s.endpoint != "" && now.Sub(p.silent) < silenceLimit || now.Before(p.next) {
		return false
	}
	p.pause = min(max(lookupPause, 2*p.pause), lookupPauseMax)
	p.next = now.Add(p.pause)
	return true
}

// keepEndpoints resolves the names of plain peers' endpoints: when a peer is new, and when it goes silent.
func (n *Node) keepEndpoints(ctx context.Context) {
	known := make(map[key.NodePublic]*plainPeer)
	ticker := time.NewTicker(silenceCheck)
	defer ticker.Stop()
	for {
		if named := n.namedPeers(); len(named) > 0 {
			n.checkEndpoints(ctx, named, known)
		}
		select {
		case <-ticker.C:
		case <-n.peersChanged:
		case <-ctx.Done():
			return
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

func (n *Node) checkEndpoints(ctx context.Context, named []*Peer, known map[key.NodePublic]*plainPeer) {
	sessions := n.wg0.sessions()
	for _, p := range named {
		s, ok := sessions[p.Key]
		if !ok {
			continue
		}
		if known[p.Key] == nil {
			known[p.Key] = new(plainPeer)
		}
		if known[p.Key].observe(time.Now(), s) {
			n.findEndpoint(ctx, p, s)
		}
	}
}

// findEndpoint looks up p's name and moves p if it leads elsewhere now.
func (n *Node) findEndpoint(ctx context.Context, p *Peer, s session) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := n.cfg.lookupHost(ctx, p.Endpoint.Host)
	if err != nil || len(addrs) == 0 {
		n.log.Warn("looking up the endpoint of a peer", "peer", p.display(), "host", p.Endpoint.Host, "err", err)
		return
	}
	current, _ := netip.ParseAddrPort(s.endpoint)
	next := netip.AddrPortFrom(nextAddr(addrs, current.Addr()), p.Endpoint.Port)
	if next == current {
		return
	}
	if err := n.wg0.setEndpoint(p.Key, next); err != nil {
		n.log.Warn("moving a peer", "peer", p.display(), "endpoint", next, "err", err)
		return
	}
	n.log.Info("peer has moved", "peer", p.display(), "host", p.Endpoint.Host, "from", s.endpoint, "to", next)
}

// nextAddr is the address to try when current does not answer: the one after it, or the first if it is not listed.
func nextAddr(addrs []netip.Addr, current netip.Addr) netip.Addr {
	for i, a := range addrs {
		if a.Unmap() == current.Unmap() {
			return addrs[(i+1)%len(addrs)].Unmap()
		}
	}
	return addrs[0].Unmap()
}
