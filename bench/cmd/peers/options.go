package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"ginnel/bench/peer"
	"ginnel/bench/trial"
)

// options are what the flags say.
type options struct {
	root       string // of the repository
	programs   peer.Programs
	contenders []*peer.Contender
	rounds     int
	plan       trial.Plan
	smoke      bool
	verbose    bool
	from       string // a file with figures to report on, instead of measuring
	json, svg  string // files to write; empty for none
	page       string
}

func parse(args []string) (*options, error) {
	fs := flag.NewFlagSet("peers", flag.ContinueOnError)
	o := new(options)
	fs.StringVar(&o.root, "root", "..", "the `dir`ectory of the repository")
	bin := fs.String("bin", "", "`dir`ectory for built programs (ginnel-bench in the user's cache)")
	only := fs.String("only", "", "what to compare: names of groups (direct, relayed, relay) and of contenders, by `comma`")
	fs.IntVar(&o.rounds, "rounds", 3, "`number` of times that each takes its turn")
	seconds := fs.Float64("seconds", 2, "length of a measurement in `s`")
	steps := fs.String("steps", "", "what to measure: a `regexp` for names like those in the file of -json, as in '^(trips|down8)$'")
	before := fs.String("before", "", "`dir`ectory with another build of ginnel, to be compared with this one")
	scale := fs.Bool("scale", false, "measure how costs grow with numbers instead")
	fs.BoolVar(&o.smoke, "smoke", false, "only show that everything works: one short round")
	write := fs.Bool("write", false, "write BENCHMARKS.md, docs/benchmarks.svg and docs/benchmarks.json in the repository")
	fs.StringVar(&o.from, "from", "", "do not measure; report on the figures in this `file`, which -json or -write has made")
	fs.StringVar(&o.json, "json", "", "`file` for all figures")
	fs.StringVar(&o.svg, "svg", "", "`file` for a chart")
	fs.BoolVar(&o.verbose, "v", false, "log every measurement")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("%q: there are flags only", fs.Arg(0))
	}
	if o.rounds < 1 || *seconds <= 0 {
		return nil, fmt.Errorf("-rounds %d and -seconds %v must be positive", o.rounds, *seconds)
	}
	o.plan = trial.Full(*seconds)
	if *scale {
		o.plan = trial.Scale(*seconds)
	}
	if o.smoke {
		o.plan, o.rounds = trial.Smoke(), 1
	}
	if *steps != "" {
		var err error
		if o.plan.Steps, err = regexp.Compile(*steps); err != nil {
			return nil, fmt.Errorf("-steps: %w", err)
		}
	}
	return o, o.resolve(*bin, *only, *before, *write)
}

// resolve settles what depends on the machine.
func (o *options) resolve(bin, only, before string, write bool) (err error) {
	if o.root, err = filepath.Abs(o.root); err != nil {
		return err
	}
	if bin == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("looking for a place for programs; name one with -bin: %w", err)
		}
		bin = filepath.Join(cache, "ginnel-bench")
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	o.programs = peer.Programs(bin)
	if write {
		o.page = filepath.Join(o.root, "BENCHMARKS.md")
		o.svg, o.json = filepath.Join(o.root, "docs", "benchmarks.svg"), filepath.Join(o.root, "docs", "benchmarks.json")
	}
	o.contenders, err = choose(only)
	if before != "" && err == nil {
		before, err = filepath.Abs(before)
		o.contenders = peer.WithBefore(o.contenders, peer.Programs(before))
	}
	return err
}

// choose returns the contenders that are named, by themselves or by their group; all if nothing is.
func choose(only string) (chosen []*peer.Contender, err error) {
	all := peer.Contenders()
	if only == "" {
		return all, nil
	}
	wanted := make(map[*peer.Contender]bool)
	for _, name := range strings.Split(only, ",") {
		found := false
		for _, c := range all {
			if c.Name == name || string(c.Group) == name {
				wanted[c], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("-only %q: there is no such group or contender", name)
		}
	}
	return slices.DeleteFunc(all, func(c *peer.Contender) bool { return !wanted[c] }), nil
}

// build makes the programs.
func (o *options) build(ctx context.Context) error {
	if err := os.MkdirAll(string(o.programs), 0o755); err != nil {
		return err
	}
	return peer.Build(ctx, o.root, o.programs, o.contenders)
}
