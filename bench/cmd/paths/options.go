package main

import (
	"flag"
	"fmt"
	"regexp"
	"slices"

	"ginnel/bench/peer"
	"ginnel/bench/session"
	"ginnel/bench/trial"
)

// comparison is a comparison on emulated paths.
type comparison struct {
	*session.Options
	plan  trial.PathPlan
	paths []trial.Path
}

func parse(args []string) (session.Comparison, error) { return newComparison(args) }

func newComparison(args []string) (*comparison, error) {
	var names string
	var all bool
	o, err := session.Parse("paths", session.Options{Rounds: 1, Seconds: 5}, args, peer.PathContenders(),
		func(fs *flag.FlagSet) {
			fs.StringVar(&names, "paths", "", "measure only on paths whose names match this `regexp`, as in '^rtt66'")
			fs.BoolVar(&all, "all", false, "run every measurement with every contender on every path: takes hours")
		})
	if err != nil {
		return nil, err
	}
	c := &comparison{o, trial.FullPathPlan(o.Seconds), trial.Paths()}
	if o.Smoke {
		c.plan, c.paths = trial.SmokePlan(), []trial.Path{trial.SmokePath()}
	}
	c.plan.Steps = o.Steps
	c.plan.All = c.plan.All || all
	expr, err := regexp.Compile(names)
	if err != nil {
		return nil, fmt.Errorf("-paths: %w", err)
	}
	c.paths = slices.DeleteFunc(c.paths, func(p trial.Path) bool { return !expr.MatchString(p.Name) })
	if len(c.paths) == 0 {
		return nil, fmt.Errorf("-paths %q: no path matches", names)
	}
	return c, nil
}
