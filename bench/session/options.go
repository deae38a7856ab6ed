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
	Steps      *regexp.Regexp // names of the steps to run; nil: all
	Smoke      bool
	From       string // a file with figures to report on, instead of measuring
	JSON, SVG  string // files to write; empty for none
	Write      bool   // also write the files of the repository
	Log        *slog.Logger
}

// Parse parses the arguments of a command. More adds flags that only this command has.
func Parse(name string, defaults Options, args []string, all []*peer.Contender, more func(*flag.FlagSet)) (
	*Options, error,
) {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	o := &defaults
	fs.StringVar(&o.Root, "root", "..", "`dir`ectory of the repository")
	bin := fs.String("bin", "", "`dir`ectory for built programs (default ginnel-bench in the user's cache)")
	only := fs.String("only", "",
		"compare only these groups (direct, relayed, relay) or contenders, a `list` separated by commas")
	fs.IntVar(&o.Rounds, "rounds", o.Rounds, "`number` of rounds, in each of which every contender is measured once")
	fs.Float64Var(&o.Seconds, "seconds", o.Seconds, "length of a measurement in `seconds`")
	steps := fs.String("steps", "",
		"run only the measurements whose names in the file of -json match this `regexp`, as in '^(trips|down8)$'")
	before := fs.String("before", "", "`dir`ectory of another build of ginnel to compare with this one")
	fs.BoolVar(&o.Smoke, "smoke", false, "only check that everything works, in one short round")
	fs.BoolVar(&o.Write, "write", false, "write BENCHMARKS.md, and its charts and figures in the repository's docs")
	fs.StringVar(&o.From, "from", "", "report on the figures in this `file` of -json or -write instead of measuring")
	fs.StringVar(&o.JSON, "json", "", "write all figures to this `file`")
	fs.StringVar(&o.SVG, "svg", "", "write a chart to this `file`")
	verbose := fs.Bool("v", false, "log every measurement")
	if more != nil {
		more(fs)
	}
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
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

// place makes the directories absolute, and sets the default of bin.
func (o *Options) place(bin string) (err error) {
	if o.Root, err = filepath.Abs(o.Root); err != nil {
		return err
	}
	if bin == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("finding a directory for programs (-bin gives one): %w", err)
		}
		bin = filepath.Join(cache, "ginnel-bench")
	}
	bin, err = filepath.Abs(bin)
	o.Programs = peer.Programs(bin)
	return err
}

// choose sets the contenders: those whose name or group is in only, or all if only is empty.
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
				return fmt.Errorf("-only %q: no such group or contender", name)
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
