package trial

import (
	"time"

	"ginnel/bench/derpload"
	"ginnel/bench/load"
)

// Plan says how much is measured.
type Plan struct {
	Seconds     float64       // of each measurement
	Settle      time.Duration // before the first of them, so that the memory is that of idle nodes
	Calm        time.Duration // before each, so that nothing is on its way from the one before
	Conns       []int         // at a time in bulk
	Directions  []load.Direction
	Idle        int   // connections
	IdleClients int   // of a relay
	Pairs       []int // of clients of a relay, at a time
}

// Full is what gives figures that mean something.
func Full(seconds float64) Plan {
	return Plan{
		Seconds: seconds, Settle: 3 * time.Second, Calm: time.Second / 2,
		Conns: []int{1, 8, 64}, Directions: []load.Direction{load.Down, load.Up, load.Both},
		Idle: 500, IdleClients: 10000, Pairs: []int{1, 100, 1000},
	}
}

// Smoke is what shows that all of it works, in the shortest time.
func Smoke() Plan {
	return Plan{
		Seconds: 0.2, Conns: []int{1}, Directions: []load.Direction{load.Both},
		Idle: 10, IdleClients: 20, Pairs: []int{2},
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

// idleSteps measure what waits.
func (p *Plan) idleSteps(socks load.Proxy) []step {
	return []step{{"idle", load.Spec{Kind: load.Idle, Proxy: socks, Conns: p.Idle, Duration: p.duration()}}}
}

// steps are the measurements of nodes that are at work. What leaves much behind in some of them, memory or bytes on their
// way, comes after what that would change: many requests after one connection in bulk, many connections in bulk last.
func (p *Plan) steps(socks, http load.Proxy, datagrams bool) []step {
	var all []step
	add := func(name string, by load.Proxy, s load.Spec) {
		s.Proxy, s.Duration = by, p.duration()
		if s.Kind == load.Datagrams {
			s.Duration /= 4 // it makes many trials
		}
		all = append(all, step{name, s})
	}
	bulk := func(conns []int) {
		for _, n := range conns {
			for _, d := range p.Directions {
				add(number(string(d), n), socks, load.Spec{Kind: load.Bulk, Conns: n, Direction: d})
			}
		}
	}
	add("trips", socks, load.Spec{Kind: load.RoundTrips})
	add("connect-trips", http, load.Spec{Kind: load.RoundTrips})
	bulk(p.Conns[:1])
	add("connect-down1", http, load.Spec{Kind: load.Bulk, Conns: 1, Direction: load.Down})
	if datagrams {
		add("datagrams", socks, load.Spec{Kind: load.Datagrams})
	}
	for _, n := range []int{1, 16} {
		add(number("requests", n), socks, load.Spec{Kind: load.Requests, Conns: n})
	}
	bulk(p.Conns[1:])
	return all
}

// relaySteps are the measurements of relays. Idle clients come first: memory that was in use once hides what is added.
func (p *Plan) relaySteps() []relayStep {
	all := []relayStep{
		{"idle", derpload.Spec{Kind: derpload.Idle, Clients: p.IdleClients}},
		{"trips", derpload.Spec{Kind: derpload.Trips}},
	}
	for _, n := range p.Pairs {
		all = append(all,
			relayStep{number("singles", n), derpload.Spec{Kind: derpload.Flood, Pairs: n, Batch: 1}},
			relayStep{number("batches", n), derpload.Spec{Kind: derpload.Flood, Pairs: n, Batch: 16}})
	}
	for i := range all {
		all[i].spec.Duration = p.duration()
	}
	return all
}
