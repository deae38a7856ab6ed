package trial

import (
	"time"

	"ginnel/bench/derpload"
	"ginnel/bench/load"
)

// Plan says how much is measured.
type Plan struct {
	Seconds     float64 // of each measurement
	Settle      time.Duration
	Conns       []int // at a time in bulk
	Idle        int   // connections
	IdleClients int   // of a relay
	Pairs       []int // of clients of a relay, at a time
}

// Full is what gives figures that mean something.
func Full(seconds float64) Plan {
	return Plan{Seconds: seconds, Settle: 3 * time.Second, Conns: []int{1, 8, 64}, Idle: 500, IdleClients: 10000, Pairs: []int{1, 100, 1000}}
}

// Smoke is what shows that all of it works, in the shortest time.
func Smoke() Plan {
	return Plan{Seconds: 0.1, Conns: []int{1, 8}, Idle: 10, IdleClients: 20, Pairs: []int{2}}
}

func (p *Plan) duration() time.Duration { return time.Duration(p.Seconds * float64(time.Second)) }

// step is a measurement; name is put before the names of its figures.
type step struct {
	name string
	spec load.Spec
}

// steps are the measurements of nodes.
func (p *Plan) steps(socks, http load.Proxy, datagrams bool) []step {
	var all []step
	add := func(name string, s load.Spec) {
		s.Duration = p.duration()
		if s.Proxy.Kind == "" {
			s.Proxy = socks
		}
		all = append(all, step{name, s})
	}
	for _, n := range p.Conns {
		for _, d := range []load.Direction{load.Down, load.Up, load.Both} {
			add(number(string(d), n), load.Spec{Kind: load.Bulk, Conns: n, Direction: d})
		}
	}
	add("connect-down1", load.Spec{Kind: load.Bulk, Conns: 1, Direction: load.Down, Proxy: http})
	add("trips", load.Spec{Kind: load.RoundTrips})
	add("connect-trips", load.Spec{Kind: load.RoundTrips, Proxy: http})
	for _, n := range []int{1, 16} {
		add(number("requests", n), load.Spec{Kind: load.Requests, Conns: n})
	}
	if datagrams {
		add("datagrams", load.Spec{Kind: load.Datagrams})
	}
	add("idle", load.Spec{Kind: load.Idle, Conns: p.Idle})
	return all
}

// relaySteps are the measurements of relays.
func (p *Plan) relaySteps() map[string]derpload.Spec {
	all := map[string]derpload.Spec{
		"trips": {Kind: derpload.Trips},
		"idle":  {Kind: derpload.Idle, Clients: p.IdleClients},
	}
	for _, n := range p.Pairs {
		all[number("singles", n)] = derpload.Spec{Kind: derpload.Flood, Pairs: n, Batch: 1}
		all[number("batches", n)] = derpload.Spec{Kind: derpload.Flood, Pairs: n, Batch: 16}
	}
	for name, s := range all {
		s.Duration = p.duration()
		all[name] = s
	}
	return all
}
