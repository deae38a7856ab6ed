package session

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"ginnel/bench/peer"
)

// Options are the flags that all commands have.
type Options struct {
	Root       string // of the repository
	Programs   peer.Programs
	Contenders []*peer.Contender
	Chosen     bool // -only names the contenders
	Rounds     int
	Seconds    float64        // of a measurement
	Steps      *regexp.Regexp // names of what is measured; nil: all
	Smoke      bool
	From       string // a file with figures to report on, instead of measuring
	JSON, SVG  string // files to write; empty for none
	Write      bool   // also write the files of the repository
	Log        *slog.Logger
}

// Parse reads the arguments of a command. More adds flags that only this command has.
func Parse(name string, defaults Options, args []string, all []*peer.Contender, more func(*flag.FlagSet)) (*Options, error) {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	o := &defaults
	fs.StringVar(&o.Root, "root", "..", "the `dir`ectory of the repository")
	bin := fs.String("bin", "", "`dir`ectory for built programs (ginnel-bench in the user's cache)")
	only := fs.String("only", "", "what to compare: names of groups (direct, relayed, relay) and of contenders, by `comma`")
	fs.IntVar(&o.Rounds, "rounds", o.Rounds, "`number` of times that each takes its turn")
	fs.Float64Var(&o.Seconds, "seconds", o.Seconds, "length of a measurement in `s`")
	steps := fs.String("steps", "", "what to measure: a `regexp` for names like those in the file of -json, as in '^(trips|down8)$'")
	before := fs.String("before", "", "`dir`ectory with another build of ginnel, to be compared with this one")
	fs.BoolVar(&o.Smoke, "smoke", false, "only show that everything works: one short round")
	fs.BoolVar(&o.Write, "write", false, "write BENCHMARKS.md and its chart and figures in docs of the repository")
	fs.StringVar(&o.From, "from", "", "do not measure; report on the figures in this `file`, which -json or -write has made")
	fs.StringVar(&o.JSON, "json", "", "`file` for all figures")
	fs.StringVar(&o.SVG, "svg", "", "`file` for a chart")
	verbose := fs.Bool("v", false, "log every measurement")
	if more != nil {
		more(fs)
	}
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("%q: there are flags only", fs.Arg(0))
	}
	if o.Smoke {
		o.Rounds = 1
	}
	if o.Rounds < 1 || o.Seconds <= 0 {
		return nil, fmt.Errorf("-rounds %d and -seconds %v must be positive", o.Rounds, o.Seconds)
	}
	o.Log = slog.New(slog.DiscardHandler)
	if *verbose {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var err error
	if *steps != "" {
		if o.Steps, err = regexp.Compile(*steps); err != nil {
			return nil, fmt.Errorf("-steps: %w", err)
		}
	}
	if err := o.place(*bin); err != nil {
		return nil, err
	}
	return o, o.choose(all, *only, *before)
}

// place makes directories absolute and chooses that of the programs.
func (o *Options) place(bin string) (err error) {
	if o.Root, err = filepath.Abs(o.Root); err != nil {
		return err
	}
	if bin == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("looking for a place for programs; name one with -bin: %w", err)
		}
		bin = filepath.Join(cache, "ginnel-bench")
	}
	bin, err = filepath.Abs(bin)
	o.Programs = peer.Programs(bin)
	return err
}

// choose sets the contenders: those that only names, by name or by group, or all if it is empty.
func (o *Options) choose(all []*peer.Contender, only, before string) error {
	o.Contenders, o.Chosen = all, only != ""
	if o.Chosen {
		wanted := make(map[*peer.Contender]bool)
		for _, name := range strings.Split(only, ",") {
			found := false
			for _, c := range all {
				if c.Name == name || string(c.Group) == name {
					wanted[c], found = true, true
				}
			}
			if !found {
				return fmt.Errorf("-only %q: there is no such group or contender", name)
			}
		}
		o.Contenders = slices.DeleteFunc(slices.Clone(all), func(c *peer.Contender) bool { return !wanted[c] })
	}
	if before == "" {
		return nil
	}
	before, err := filepath.Abs(before)
	o.Contenders = peer.WithBefore(o.Contenders, peer.Programs(before))
	return err
}

// Build builds the programs.
func (o *Options) Build(ctx context.Context) error {
	if err := os.MkdirAll(string(o.Programs), 0o755); err != nil {
		return err
	}
	return peer.Build(ctx, o.Root, o.Programs, o.Contenders)
}

// doc returns the path of a file in the directory docs of the repository.
func (o *Options) doc(name string) string { return filepath.Join(o.Root, "docs", name) }
