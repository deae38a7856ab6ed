package trial

import (
	"cmp"
	"regexp"
	"slices"
	"time"

	"ginnel/bench/derpload"
	"ginnel/bench/load"
	"ginnel/bench/peer"
)

// Plan is what is measured on the switch, and for how long.
type Plan struct {
	Seconds     float64       // of each measurement
	Together    bool          // start the nodes once for all parts, to save time
	Settle      time.Duration // before the first measurement, so that memory is that of idle nodes
	Pause       time.Duration // before each measurement, until no packet of the previous one is in flight
	Conns       []int         // numbers of connections of bulk
	Directions  []load.Direction
	Settled     time.Duration  // from the last traffic until path discovery is silent
	Quiet       time.Duration  // how long idle nodes are measured
	Idle        []int          // numbers of idle connections
	Crowds      []int          // numbers of connections dialled at once
	IdleClients []int          // numbers of idle clients of a relay
	Pairs       []int          // numbers of pairs of clients of a relay
	Steps       *regexp.Regexp // names of the steps to run; nil: all
}

// Full returns the plan of a real comparison.
func Full(seconds float64) Plan {
	return Plan{
		Seconds: seconds, Settle: 3 * time.Second, Pause: time.Second / 2,
		Conns: []int{1, 8, 64}, Directions: []load.Direction{load.Down, load.Up, load.Both},
		Settled: time.Minute, Quiet: 20 * time.Second, Idle: []int{2000}, Crowds: []int{1000, 2000, 4000, 10000},
		IdleClients: []int{10000}, Pairs: []int{1, 100, 1000},
	}
}

// Scale returns the plan that measures how costs grow with numbers.
func Scale(seconds float64) Plan {
	p, numbers := Full(seconds), []int{10, 100, 1000, 10000}
	p.Idle, p.Crowds, p.IdleClients, p.Pairs = numbers, numbers, numbers, numbers[:3]
	p.Steps = regexp.MustCompile(`^(idle|crowd|singles|batches)\d`)
	return p
}

// Smoke returns the shortest plan that runs every kind of measurement.
func Smoke() Plan {
	return Plan{
		Seconds: 0.2, Together: true, Conns: []int{1}, Directions: []load.Direction{load.Both},
		Quiet: time.Second, Idle: []int{10}, Crowds: []int{20}, IdleClients: []int{20}, Pairs: []int{2},
	}
}

func (p *Plan) duration() time.Duration { return time.Duration(p.Seconds * float64(time.Second)) }

// step is a measurement. Its name is the prefix of the names of its figures.
type step struct {
	name string
	spec load.Spec
}

// relayStep is a measurement of a relay.
type relayStep struct {
	name string
	spec derpload.Spec
}

// parts returns the measurements of nodes. The nodes are started anew for each part, because memory
// and packets in flight from other measurements would change its figures.
func (p *Plan) parts(c *peer.Contender) [][]step {
	parts := [][]step{slices.Concat(p.quiet(c), p.exchanges(c)), p.bulk(c)}
	for _, n := range p.Idle {
		parts = append(parts, []step{{number("idle", n), load.Spec{Kind: load.Idle, Conns: n}}})
	}
	for _, n := range p.Crowds {
		if c.Group == peer.DirectGroup { // crowds are measured only without a relay
			parts = append(parts, []step{{number("crowd", n), load.Spec{Kind: load.Crowd, Conns: n}}})
		}
	}
	for n, part := range parts {
		part = slices.DeleteFunc(part, func(s step) bool { return !p.wants(s.name) })
		parts[n] = part
		for i := range part {
			s := &part[i].spec
			s.Duration = cmp.Or(s.Duration, p.duration())
			if s.Proxy == (load.Proxy{}) {
				s.Proxy = c.SOCKS
			}
		}
	}
	if p.Together {
		return [][]step{slices.Concat(parts...)}
	}
	return slices.DeleteFunc(parts, func(part []step) bool { return len(part) == 0 })
}

func (p *Plan) wants(name string) bool { return p.Steps == nil || p.Steps.MatchString(name) }

// quiet returns the measurement of idle nodes.
func (p *Plan) quiet(c *peer.Contender) []step {
	if !c.HasNodes() || c.Group != peer.DirectGroup {
		return nil
	}
	return []step{{"quiet", load.Spec{Kind: load.Quiet, Warmup: p.Settled, Duration: p.Quiet}}}
}

// exchanges returns the measurements of round trips, requests and datagrams.
func (p *Plan) exchanges(c *peer.Contender) []step {
	all := []step{
		{"trips", load.Spec{Kind: load.RoundTrips}},
		{"connect-trips", load.Spec{Kind: load.RoundTrips, Proxy: c.HTTP}},
		{"requests1", load.Spec{Kind: load.Requests, Conns: 1}},
		{"requests16", load.Spec{Kind: load.Requests, Conns: 16}},
	}
	if !c.NoDatagrams {
		const trials = 4 // the search for the rate takes at least so many
		all = append(all, step{"datagrams", load.Spec{Kind: load.Datagrams, Duration: p.duration() / trials}})
	}
	return all
}

// bulk returns the measurements of bulk, from few connections to many.
func (p *Plan) bulk(c *peer.Contender) (all []step) {
	for _, n := range p.Conns {
		for _, d := range p.Directions {
			all = append(all, step{number(string(d), n), load.Spec{Kind: load.Bulk, Conns: n, Direction: d}})
		}
		if n == 1 {
			all = append(all, step{"connect-down1", load.Spec{Kind: load.Bulk, Proxy: c.HTTP, Conns: n, Direction: load.Down}})
		}
	}
	return all
}

// relayParts returns the measurements of a relay, in parts as those of nodes.
func (p *Plan) relayParts() (parts [][]relayStep) {
	for _, n := range p.IdleClients {
		parts = append(parts, []relayStep{{number("idle", n), derpload.Spec{Kind: derpload.Idle, Clients: n}}})
	}
	all := []relayStep{{"trips", derpload.Spec{Kind: derpload.Trips}}}
	for _, n := range p.Pairs {
		all = append(all,
			relayStep{number("singles", n), derpload.Spec{Kind: derpload.Flood, Pairs: n, Batch: 1}},
			relayStep{number("batches", n), derpload.Spec{Kind: derpload.Flood, Pairs: n, Batch: 16}})
	}
	parts = append(parts, all)
	for n, part := range parts {
		part = slices.DeleteFunc(part, func(s relayStep) bool { return !p.wants(s.name) })
		parts[n] = part
		for i := range part {
			part[i].spec.Duration = p.duration()
		}
	}
	if p.Together {
		return [][]relayStep{slices.Concat(parts...)}
	}
	return slices.DeleteFunc(parts, func(part []relayStep) bool { return len(part) == 0 })
}
