package trial

import (
	"regexp"
	"time"

	"ginnel/bench/load"
)

// PathPlan is what is measured on paths, and for how long.
type PathPlan struct {
	Seconds float64        // of each measurement of bulk
	Warmup  time.Duration  // before each measurement of bulk, at least
	Trips   int            // round trips of warm-up, at least
	Pause   time.Duration  // before each measurement, in addition to some round trips
	First   time.Duration  // limit of the transfer of a connection's first bytes, and of a fetch
	Steps   *regexp.Regexp // names of the steps that are wanted; nil: those that the path has by default
	All     bool           // all steps on all paths
}

const (
	// besideConns is the number of connections with exchanges during bulk.
	besideConns = 4
	firstBytes  = 10 << 20
)

// FullPathPlan returns the plan of a real comparison.
func FullPathPlan(seconds float64) PathPlan {
	return PathPlan{Seconds: seconds, Warmup: 3 * time.Second, Trips: 30, Pause: time.Second / 2, First: 15 * time.Second}
}

// SmokePlan returns the shortest plan that runs every step.
func SmokePlan() PathPlan {
	return PathPlan{Seconds: 0.3, Warmup: 300 * time.Millisecond, First: time.Second, All: true}
}

// pause returns the pause before a measurement. During it, packets of the previous measurement
// leave the queues and arrive.
func (p *PathPlan) pause(path Path) time.Duration { return p.Pause + 4*path.RTT }

// pathStep is a step on a path. By default, only basic steps run on paths that are not main ones.
type pathStep struct {
	step
	basic bool
}

// steps returns the measurements of a contender on a path. The transfers of first bytes come first,
// because the nodes must not have carried traffic before. The rival is a concurrent kernel
// connection, nil for none.
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
		if p.Steps != nil && p.Steps.MatchString(s.name) || p.Steps == nil && (s.basic || path.Main || p.All) {
			s.spec.Proxy = proxy
			wanted = append(wanted, s.step)
		}
	}
	return wanted
}
