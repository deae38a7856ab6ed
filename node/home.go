package node

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"ginnel/relay"
)

const (
	homeMemory  = 305 * time.Second // for which a measured latency counts
	homeMargin  = 10 * time.Millisecond
	homeHeard   = 8 * time.Second   // a home heard from so lately is alive
	homePatient = 120 * time.Second // and one heard from so lately is kept when nothing answers
)

// homeChooser chooses the home relay by latency, and stays with it unless another is much better
// (DERP specification, section 8.2). It has no clock.
type homeChooser struct {
	home     int // region; 0: none yet
	reports  []latencyReport
	fallback uint64            // chooses the first home where nothing can be measured; fixed for the process
	shunned  map[int]time.Time // regions that are not chosen, and until when
}

type latencyReport struct {
	at      time.Time
	latency map[int]time.Duration
}

func newHomeChooser() *homeChooser {
	return &homeChooser{fallback: rand.Uint64(), shunned: make(map[int]time.Time)}
}

// shun keeps a region from being chosen for some time because its relay does not answer, whatever
// its latency is.
func (c *homeChooser) shun(region int, until time.Time) { c.shunned[region] = until }

// choose takes a finished report, which may be empty, and what is known of the home's connection.
// It returns the home.
func (c *homeChooser) choose(now time.Time, m *relay.Map, latency map[int]time.Duration, heard time.Time) int {
	weighted := make(map[int]time.Duration)
	for id, l := range latency {
		if r := m.Regions[id]; r != nil && !r.NoMeasureNoHome && !now.Before(c.shunned[id]) {
			weighted[id] = time.Duration(float64(l) * score(m, id))
		}
	}
	c.reports = slices.DeleteFunc(c.reports, func(r latencyReport) bool { return now.Sub(r.at) > homeMemory })
	if len(weighted) > 0 {
		c.reports = append(c.reports, latencyReport{now, weighted})
	}
	if m.Regions[c.home] == nil {
		c.home = 0
	}
	candidate, best := c.candidate(weighted)
	switch {
	case candidate == 0 && c.home == 0:
		c.home = c.pick(m)
	case candidate == 0 || candidate == c.home:
	case c.home == 0:
		c.home = candidate
	default:
		old, measured := weighted[c.home]
		alive := measured || !heard.IsZero() && now.Sub(heard) < homeHeard
		if !alive || old-best >= homeMargin && best <= old*2/3 {
			c.home = candidate
		}
	}
	return c.home
}

// candidate is the region with the least latency of late among those that answered now.
func (c *homeChooser) candidate(now map[int]time.Duration) (candidate int, best time.Duration) {
	for _, id := range slices.Sorted(maps.Keys(now)) {
		least := now[id]
		for _, r := range c.reports {
			if l, ok := r.latency[id]; ok {
				least = min(least, l)
			}
		}
		if candidate == 0 || least < best {
			candidate, best = id, least
		}
	}
	return candidate, best
}

// pick takes some region, so that nodes that cannot measure do not all take the same.
func (c *homeChooser) pick(m *relay.Map) int {
	var ids []int
	for _, id := range m.RegionIDs() {
		if r := m.Regions[id]; !r.NoMeasureNoHome && slices.ContainsFunc(r.Nodes, func(n *relay.Node) bool { return !n.STUNOnly }) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return 0
	}
	return ids[c.fallback%uint64(len(ids))]
}

// score is the factor that the map gives a region.
func score(m *relay.Map, id int) float64 {
	if m.HomeParams == nil {
		return 1
	}
	if s := m.HomeParams.RegionScore[id]; s > 0 {
		return s
	}
	return 1
}
