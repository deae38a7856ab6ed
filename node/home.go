package node

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"ginnel/relay"
)

const (
	latencyWindow = 305 * time.Second     // the time for which a measured latency counts
	homeMargin    = 10 * time.Millisecond // by which another region has to be faster, besides being faster by a third
	homeAlive     = 8 * time.Second       // a home from which a frame has come so recently is alive
)

// homeSelection is the home relay of a member, and what chooses it. The membership's mu guards it,
// except meter.newsc.
type homeSelection struct {
	region  int // 0: none yet
	chooser *homeChooser
	meter   relayMeter
}

// homeChooser chooses the home relay by latency, and keeps it unless another is much faster (DERP
// specification, section 8.2). It has no clock.
type homeChooser struct {
	home     int // region; 0: none yet
	reports  []latencyReport
	fallback uint64            // chooses the first home if nothing can be measured; fixed for the process
	excluded map[int]time.Time // regions that are not chosen before a time
}

type latencyReport struct {
	at      time.Time
	latency map[int]time.Duration
}

func newHomeChooser() *homeChooser {
	return &homeChooser{fallback: rand.Uint64(), excluded: make(map[int]time.Time)}
}

// exclude keeps a region from being chosen before a time, even if it has the least latency.
func (c *homeChooser) exclude(region int, until time.Time) { c.excluded[region] = until }

// choose takes the latencies of a finished measurement, which may be empty, and when a frame last
// came from the home. It returns the home.
func (c *homeChooser) choose(now time.Time, m *relay.Map, latency map[int]time.Duration, heard time.Time) int {
	weighted := make(map[int]time.Duration)
	for id, l := range latency {
		if r := m.Regions[id]; r != nil && !r.NoMeasureNoHome && !now.Before(c.excluded[id]) {
			weighted[id] = time.Duration(float64(l) * score(m, id))
		}
	}
	c.reports = slices.DeleteFunc(c.reports, func(r latencyReport) bool { return now.Sub(r.at) > latencyWindow })
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
		alive := measured || !heard.IsZero() && now.Sub(heard) < homeAlive
		if !alive || old-best >= homeMargin && best <= old*2/3 {
			c.home = candidate
		}
	}
	return c.home
}

// candidate returns the region with the least recent latency among those of the last measurement.
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

// pick chooses a region without latencies. Nodes that cannot measure do not all choose the same.
func (c *homeChooser) pick(m *relay.Map) int {
	var ids []int
	for _, id := range m.RegionIDs() {
		if r := m.Regions[id]; !r.NoMeasureNoHome &&
			slices.ContainsFunc(r.Nodes, func(n *relay.Node) bool { return !n.STUNOnly }) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return 0
	}
	return ids[c.fallback%uint64(len(ids))]
}

// score returns the factor by which the map weights the latency of a region.
func score(m *relay.Map, id int) float64 {
	if m.HomeParams == nil {
		return 1
	}
	if s := m.HomeParams.RegionScore[id]; s > 0 {
		return s
	}
	return 1
}
