package main

import (
	"flag"

	"ginnel/bench/peer"
	"ginnel/bench/session"
	"ginnel/bench/trial"
)

// comparison is a comparison on the switch.
type comparison struct {
	*session.Options
	plan trial.Plan
}

func parse(args []string) (session.Comparison, error) { return newComparison(args) }

func newComparison(args []string) (*comparison, error) {
	var scale bool
	o, err := session.Parse("peers", session.Options{Rounds: 3, Seconds: 2}, args, peer.Contenders(),
		func(fs *flag.FlagSet) {
			fs.BoolVar(&scale, "scale", false, "measure instead how costs grow with the number of connections and clients")
		})
	if err != nil {
		return nil, err
	}
	c := &comparison{o, trial.Full(o.Seconds)}
	if scale {
		c.plan = trial.Scale(o.Seconds)
	}
	if o.Smoke {
		c.plan = trial.Smoke()
	}
	if o.Steps != nil {
		c.plan.Steps = o.Steps
	}
	return c, nil
}
