package node

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"ginnel/relay"
)

const (
	// homeDead is the time without a connection to the home relay, and without a frame from it,
	// after which the node looks for another home.
	homeDead = 8 * time.Second
	// homeExcluded is the time for which such a home is not chosen again, even if its STUN server
	// answers.
	homeExcluded = 10 * time.Minute
	// httpsPeriod is the pause between two measurements by HTTPS without UDP, and httpsRetry the
	// pause between two because the home is dead.
	httpsPeriod  = 5 * time.Minute
	httpsRetry   = 30 * time.Second
	httpsTimeout = 10 * time.Second
	httpsAtOnce  = 8 // relays that are measured at the same time
)

// relayWatch acts on changes of the connections to relays.
type relayWatch struct {
	plane  *dataPlane
	member *membership // nil without a coordination server
}

// run has TCP retransmit when a connection is back, and tells the membership of each change, until
// ctx ends.
func (w *relayWatch) run(ctx context.Context) {
	lost := make(map[int]bool) // regions
	for s := range w.plane.pool.Watch(ctx) {
		for _, r := range s.Regions {
			switch {
			case r.State == relay.RegionWaiting:
				lost[r.Region] = true
			case r.State == relay.RegionConnected && lost[r.Region]:
				delete(lost, r.Region)
				w.plane.relayBack()
			}
		}
		if w.member != nil {
			notify(w.member.home.meter.newsc)
		}
	}
}

// relayMeter decides when a member measures relays by HTTPS: when UDP does not pass, and when its
// home is dead. The membership's mu guards its fields, except newsc.
type relayMeter struct {
	newsc    chan struct{} // capacity 1; has an item after a change of the pool's or the transport's state
	measured time.Time     // when relays were last measured by HTTPS
	homeFrom time.Time     // since when the home is the present one
	noUDP    bool          // no STUN server has answered in the last round
}

// due returns when relays have to be measured by HTTPS; zero means not in the present state.
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

// deadFrom returns from when the home counts as dead unless a frame comes from it; zero if nothing
// is wrong with it.
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

// noSTUN takes the number of STUN servers. Without any, a round of STUN never ends, so that relays
// have to be measured by HTTPS.
func (m *membership) noSTUN(servers int) {
	if servers > 0 || len(m.n.plane.netmap.Load().Relays.Regions) == 0 {
		return
	}
	m.mu.Lock()
	m.home.meter.noUDP = true
	m.mu.Unlock()
	notify(m.home.meter.newsc)
}

// measureRelays measures relays by HTTPS whenever relayMeter says so, until ctx ends.
func (m *membership) measureRelays(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-m.home.meter.newsc:
		case <-ctx.Done():
			return
		}
		home, now := m.n.plane.homeStatus(), time.Now()
		m.mu.Lock()
		at := m.home.meter.due(home)
		dead := m.home.meter.deadFrom(home)
		m.mu.Unlock()
		if !m.n.plane.hasOtherHome() {
			at = time.Time{}
		}
		if !at.IsZero() && !at.After(now) {
			latency := m.measureByHTTPS(ctx)
			if ctx.Err() != nil {
				return
			}
			if !dead.IsZero() && !dead.After(now) {
				m.leaveHome(home.Region, latency)
			} else {
				m.rehome(latency)
			}
			m.mu.Lock()
			m.home.meter.measured = time.Now()
			at = m.home.meter.due(m.n.plane.homeStatus())
			m.mu.Unlock()
		}
		if at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(0, time.Until(at)))
		}
	}
}

// leaveHome chooses another home in place of a dead one, by the latencies of STUN and HTTPS.
func (m *membership) leaveHome(dead int, byHTTPS map[int]time.Duration) {
	latency := maps.Clone(byHTTPS)
	maps.Copy(latency, m.n.plane.conn.Status().Latency)
	m.mu.Lock()
	m.home.chooser.exclude(dead, time.Now().Add(homeExcluded))
	m.mu.Unlock()
	m.n.log.Warn("home relay does not answer", "region", dead, "others", len(latency))
	m.rehome(latency)
}

// measureByHTTPS measures all regions that may be the home. It returns the latencies of those that
// answer.
func (m *membership) measureByHTTPS(ctx context.Context) map[int]time.Duration {
	ctx, cancel := context.WithTimeout(ctx, httpsTimeout)
	defer cancel()
	relays := &m.n.plane.netmap.Load().Relays
	r := httpsRound{client: m.n.host.relayClient(), log: m.n.log, latency: make(map[int]time.Duration),
		room: make(chan struct{}, httpsAtOnce)}
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
	client relay.ClientConfig
	log    *slog.Logger
	room   chan struct{} // has an item for each measurement that runs
	wg     sync.WaitGroup

	mu      sync.Mutex
	latency map[int]time.Duration
}

func (r *httpsRound) measure(ctx context.Context, region *relay.Region) {
	defer func() { <-r.room }()
	measured, err := relay.Measure(ctx, region, r.client)
	if err != nil {
		r.log.Debug("measuring a relay by HTTPS", "region", region.RegionID, "err", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.latency[region.RegionID] = measured.Latency
}
