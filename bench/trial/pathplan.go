package trial

import (
	"regexp"
	"time"

	"ginnel/bench/load"
)

// PathPlan says how much is measured on paths.
type PathPlan struct {
	Seconds float64        // of each measurement of bulk
	Warmup  time.Duration  // before it, at least
	Trips   int            // round trips before it, at least
	Calm    time.Duration  // before each measurement, beside some round trips
	First   time.Duration  // how long the first bytes of a connection may take
	Steps   *regexp.Regexp // names of the steps that are wanted; nil: those that the path has by default
	All     bool           // all steps on all paths
}

const (
	// besideConns are the connections with exchanges beside bulk.
	besideConns = 4
	firstBytes  = 10 << 20
)

// FullPathPlan is what gives figures that mean something.
func FullPathPlan(seconds float64) PathPlan {
	return PathPlan{Seconds: seconds, Warmup: 3 * time.Second, Trips: 30, Calm: time.Second / 2, First: 15 * time.Second}
}

// SmokePlan is what shows that all of it works, in the shortest time.
func SmokePlan() PathPlan {
	return PathPlan{Seconds: 0.3, Warmup: 300 * time.Millisecond, First: time.Second, All: true}
}

// calm is the time before a measurement in which arrives what is on its way, and what waits for the bottleneck.
func (p *PathPlan) calm(path Path) time.Duration { return p.Calm + 4*path.RTT }

// pathStep is a step. One that is not brief is left out by default on paths that are not main ones.
type pathStep struct {
	step
	brief bool
}

// steps are the measurements of a contender on a path. The first bytes come first, because they are to be those of nodes that
// have carried nothing yet. Rival is where the service is for a connection beside the nodes; nil if there are none.
func (p *PathPlan) steps(path Path, proxy load.Proxy, rival *load.Rival) (wanted []step) {
	bulk := func(d load.Direction, conns int) load.Spec {
		return load.Spec{
			Kind: load.Bulk, Direction: d, Conns: conns, Duration: time.Duration(p.Seconds * float64(time.Second)),
			Warmup: max(p.Warmup, time.Duration(p.Trips)*path.RTT),
		}
	}
	beside := func(d load.Direction) load.Spec {
		s := bulk(d, 1)
		s.Beside = besideConns
		return s
	}
	move := func(kind load.Kind, d load.Direction, bytes int) load.Spec {
		return load.Spec{Kind: kind, Direction: d, Bytes: bytes, Duration: p.First}
	}
	all := []pathStep{
		{step{"first-down", move(load.Transfer, load.Down, firstBytes)}, true},
		{step{"first-up", move(load.Transfer, load.Up, firstBytes)}, true},
		{step{"fetch100k", move(load.Fetches, load.Down, 100_000)}, true},
		{step{"fetch1m", move(load.Fetches, load.Down, 1_000_000)}, true},
		{step{"down1", beside(load.Down)}, true},
		{step{"up1", beside(load.Up)}, true},
		{step{"down8", bulk(load.Down, 8)}, false},
		{step{"up8", bulk(load.Up, 8)}, false},
		{step{"pair", bulk(load.Down, 2)}, false},
	}
	if rival != nil {
		s := bulk(load.Down, 1)
		s.Rival = rival
		all = append(all, pathStep{step{"rival", s}, false})
	}
	for _, s := range all {
		if p.Steps != nil && p.Steps.MatchString(s.name) || p.Steps == nil && (s.brief || path.Main || p.All) {
			s.spec.Proxy = proxy
			wanted = append(wanted, s.step)
		}
	}
	return wanted
}
