package node

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"time"

	"ginnel/relay"
)

// What follows from the state of the connections to relays: TCP goes on at once when one is back, a
// home that does not answer is left, and where UDP does not pass, relays are measured by HTTPS.

const (
	// homeDead is after how long without a connection to the home, and without a word from it, the node
	// looks for another.
	homeDead = 8 * time.Second
	// homeShunned is how long such a home is not chosen again, though its STUN server may answer.
	homeShunned = 10 * time.Minute
	// httpsPeriod is between two measurements by HTTPS, and httpsRetry between two because the home is
	// dead.
	httpsPeriod  = 5 * time.Minute
	httpsRetry   = 30 * time.Second
	httpsTimeout = 10 * time.Second
	httpsAtOnce  = 8 // relays that are measured at the same time
)

// watchRelays acts on what becomes of the connections to relays until ctx ends.
func (n *Node) watchRelays(ctx context.Context) {
	lost := make(map[int]bool) // regions
	for s := range n.pool.Watch(ctx) {
		for _, r := range s.Regions {
			switch {
			case r.State == relay.RegionWaiting:
				lost[r.Region] = true
			case r.State == relay.RegionConnected && lost[r.Region]:
				delete(lost, r.Region)
				n.relayBack()
			}
		}
		if n.member != nil {
			notify(n.member.relays.newsc)
		}
	}
}

// relayBack has connections that lead through a relay go on at once, not when their back-off is
// over: those of this node, and those of peers that send to it.
func (n *Node) relayBack() {
	peers := n.conn.Status().Peers
	n.stack.PathBack(func(a netip.Addr) bool {
		owner, ok := n.wg0.dev.Owner(a)
		return ok && !peers[owner].Trusted
	})
	n.conn.GreetByRelay()
}

// relayMeter decides when a member measures relays by HTTPS. Its fields are guarded by the
// membership's mu, except for newsc.
type relayMeter struct {
	newsc    chan struct{} // has an item after a change of the pool's or the transport's state
	measured time.Time     // by HTTPS
	homeFrom time.Time     // since when the home is what it is
	noUDP    bool          // no STUN server has answered in the last round
}

// due returns when relays have to be measured by HTTPS: because there is no other way, or because
// the home is dead. The zero time means not as things are.
func (r *relayMeter) due(home relay.RegionStatus) (at time.Time) {
	if r.noUDP {
		if at = r.measured.Add(httpsPeriod); r.measured.IsZero() {
			at = r.homeFrom
		}
	}
	if dead := r.deadFrom(home); !dead.IsZero() {
		if again := r.measured.Add(httpsRetry); again.After(dead) {
			dead = again
		}
		if at.IsZero() || dead.Before(at) {
			at = dead
		}
	}
	return at
}

// deadFrom returns when the home counts as dead unless it is heard from before; the zero time if
// nothing is wrong with it.
func (r *relayMeter) deadFrom(home relay.RegionStatus) time.Time {
	if home.Region == 0 || home.Err == nil || home.State == relay.RegionConnected {
		return time.Time{}
	}
	heard := r.homeFrom
	if home.LastHeard.After(heard) {
		heard = home.LastHeard
	}
	return heard.Add(homeDead)
}

// noSTUN notes whether there are relays and none of them has a STUN server, so that a round of STUN
// never ends.
func (m *membership) noSTUN(servers int) {
	if servers > 0 || len(m.n.netmap.Load().Relays.Regions) == 0 {
		return
	}
	m.mu.Lock()
	m.relays.noUDP = true
	m.mu.Unlock()
	notify(m.relays.newsc)
}

// mayMove reports whether there is another home to choose, so that it makes sense to measure.
func (n *Node) mayMove() bool {
	regions := n.netmap.Load().Relays.Regions
	homes := 0
	for _, r := range regions {
		if !r.NoMeasureNoHome {
			homes++
		}
	}
	return homes > 1
}

// homeStatus is what the pool knows of the home.
func (n *Node) homeStatus() relay.RegionStatus {
	s := n.pool.Status()
	for _, r := range s.Regions {
		if r.Region == s.Home {
			return r
		}
	}
	return relay.RegionStatus{}
}

// setHome makes a region the home relay.
func (n *Node) setHome(region int) {
	n.mapMu.Lock()
	defer n.mapMu.Unlock()
	m := *n.netmap.Load()
	m.Home = region
	n.netmap.Store(&m)
	n.pool.SetHome(region)
}

// measureRelays measures relays by HTTPS whenever that is due, until ctx ends.
func (m *membership) measureRelays(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-m.relays.newsc:
		case <-ctx.Done():
			return
		}
		home, now := m.n.homeStatus(), time.Now()
		m.mu.Lock()
		at := m.relays.due(home)
		dead := m.relays.deadFrom(home)
		m.mu.Unlock()
		if !m.n.mayMove() {
			at = time.Time{}
		}
		if !at.IsZero() && !at.After(now) {
			latency := m.n.measureByHTTPS(ctx)
			if ctx.Err() != nil {
				return
			}
			if !dead.IsZero() && !dead.After(now) {
				m.leaveHome(home.Region, latency)
			} else {
				m.rehome(latency)
			}
			m.mu.Lock()
			m.relays.measured = time.Now()
			at = m.relays.due(m.n.homeStatus())
			m.mu.Unlock()
		}
		if at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(0, time.Until(at)))
		}
	}
}

// leaveHome chooses another home than one that is dead, by what STUN and HTTPS have measured.
func (m *membership) leaveHome(dead int, byHTTPS map[int]time.Duration) {
	latency := maps.Clone(byHTTPS)
	maps.Copy(latency, m.n.conn.Status().Latency)
	m.mu.Lock()
	m.homes.shun(dead, time.Now().Add(homeShunned))
	m.mu.Unlock()
	m.n.log.Warn("home relay does not answer", "region", dead, "others", len(latency))
	m.rehome(latency)
}

// measureByHTTPS measures all regions that may be a home, and returns the latency of those that
// answer.
func (n *Node) measureByHTTPS(ctx context.Context) map[int]time.Duration {
	ctx, cancel := context.WithTimeout(ctx, httpsTimeout)
	defer cancel()
	relays := &n.netmap.Load().Relays
	r := httpsRound{n: n, latency: make(map[int]time.Duration), room: make(chan struct{}, httpsAtOnce)}
	for _, id := range relays.RegionIDs() {
		if region := relays.Regions[id]; !region.NoMeasureNoHome {
			r.room <- struct{}{}
			r.wg.Go(func() { r.measure(ctx, region) })
		}
	}
	r.wg.Wait()
	return r.latency
}

// httpsRound is one measurement of all regions.
type httpsRound struct {
	n    *Node
	room chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex
	latency map[int]time.Duration
}

func (r *httpsRound) measure(ctx context.Context, region *relay.Region) {
	defer func() { <-r.room }()
	measured, err := relay.Measure(ctx, region, r.n.relayClient())
	if err != nil {
		r.n.log.Debug("measuring a relay by HTTPS", "region", region.RegionID, "err", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.latency[region.RegionID] = measured.Latency
}

// relayClient is how relays are reached for other purposes than packets.
func (n *Node) relayClient() relay.ClientConfig {
	return relay.ClientConfig{Roots: n.cfg.Roots, Proxy: n.outboundProxy, DialProxy: n.dialer().Dial}
}
