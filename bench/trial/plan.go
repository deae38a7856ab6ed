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

// Plan says how much is measured.
type Plan struct {
	Seconds     float64       // of each measurement
	Together    bool          // all parts of the measurements on nodes that are started once, to save the starts
	Settle      time.Duration // before the first of them, so that the memory is that of idle nodes
	Calm        time.Duration // before each, so that nothing is on its way from the one before
	Conns       []int         // at a time in bulk
	Directions  []load.Direction
	Settled     time.Duration  // after the last traffic, until discovery sends nothing more
	Quiet       time.Duration  // how long nodes are looked at that have nothing to do
	Idle        []int          // connections, at a time
	Crowds      []int          // of connections that are dialled at once
	IdleClients []int          // of a relay, at a time
	Pairs       []int          // of clients of a relay, at a time
	Steps       *regexp.Regexp // names of the steps that are wanted; nil: all
}

// Full is what gives figures that mean something.
func Full(seconds float64) Plan {
	return Plan{
		Seconds: seconds, Settle: 3 * time.Second, Calm: time.Second / 2,
		Conns: []int{1, 8, 64}, Directions: []load.Direction{load.Down, load.Up, load.Both},
		Settled: time.Minute, Quiet: 20 * time.Second, Idle: []int{2000}, Crowds: []int{1000, 2000, 4000, 10000},
		IdleClients: []int{10000}, Pairs: []int{1, 100, 1000},
	}
}

// Scale is what tells how costs grow with numbers.
func Scale(seconds float64) Plan {
	p, numbers := Full(seconds), []int{10, 100, 1000, 10000}
	p.Idle, p.Crowds, p.IdleClients, p.Pairs = numbers, numbers, numbers, numbers[:3]
	p.Steps = regexp.MustCompile(`^(idle|crowd|singles|batches)\d`)
	return p
}

// Smoke is what shows that all of it works, in the shortest time.
func Smoke() Plan {
	return Plan{
		Seconds: 0.2, Together: true, Conns: []int{1}, Directions: []load.Direction{load.Both},
		Quiet: time.Second, Idle: []int{10}, Crowds: []int{20}, IdleClients: []int{20}, Pairs: []int{2},
	}
}

func (p *Plan) duration() time.Duration { return time.Duration(p.Seconds * float64(time.Second)) }

// step is a measurement; name is put before the names of its figures.
type step struct {
	name string
	spec load.Spec
}

// relayStep is the same of a relay.
type relayStep struct {
	name string
	spec derpload.Spec
}

// parts are the measurements of nodes. Each part is of nodes that have just been started, for what
// one leaves behind in them, memory or bytes on their way, changes the figures of others.
func (p *Plan) parts(c *peer.Contender) [][]step {
	parts := [][]step{slices.Concat(p.quiet(c), p.exchanges(c)), p.bulk(c)}
	for _, n := range p.Idle {
		parts = append(parts, []step{{number("idle", n), load.Spec{Kind: load.Idle, Conns: n}}})
	}
	for _, n := range p.Crowds {
		if c.Group == peer.DirectGroup { // crowds are measured without a relay only
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

// quiet is of nodes that have joined and have nothing to do.
func (p *Plan) quiet(c *peer.Contender) []step {
	if !c.HasNodes() || c.Group != peer.DirectGroup {
		return nil
	}
	return []step{{"quiet", load.Spec{Kind: load.Quiet, Warmup: p.Settled, Duration: p.Quiet}}}
}

// exchanges are short.
func (p *Plan) exchanges(c *peer.Contender) []step {
	all := []step{
		{"trips", load.Spec{Kind: load.RoundTrips}},
		{"connect-trips", load.Spec{Kind: load.RoundTrips, Proxy: c.HTTP}},
		{"requests1", load.Spec{Kind: load.Requests, Conns: 1}},
		{"requests16", load.Spec{Kind: load.Requests, Conns: 16}},
	}
	if !c.NoDatagrams {
		const trials = 4 // and more, in which the rate is found
		all = append(all, step{"datagrams", load.Spec{Kind: load.Datagrams, Duration: p.duration() / trials}})
	}
	return all
}

// bulk is from few connections to many.
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

// relayParts are the measurements of relays, in parts as those of nodes.
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
