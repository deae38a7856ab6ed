package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"ginnel/bench/netlab"
	"ginnel/bench/peer"
	"ginnel/bench/report"
	"ginnel/bench/trial"
)

// compare has every contender take its turn in every round, and reports.
func compare(ctx context.Context, o *options) error {
	dir, err := os.MkdirTemp("", "ginnel-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	lab, err := netlab.New(dir, trial.Hold)
	if err != nil {
		return fmt.Errorf("making the network: %w", err)
	}
	defer lab.Close()
	ground := &peer.Ground{Lab: lab, Programs: o.programs, Dir: dir}
	r := &report.Results{
		Date: time.Now().UTC().Format(time.DateOnly), Commit: commit(ctx, o.root), Machine: machine(),
		Smoke: o.smoke, Rounds: o.rounds,
		Seconds: o.plan.Seconds, Versions: peer.Versions(o.programs, o.contenders), Groups: groups(o.contenders),
		Figures: make(map[string][]map[string]float64),
	}
	err = rounds(ctx, o, ground, r)
	fmt.Print(r.Text())
	if ctx.Err() != nil {
		return err
	}
	return errors.Join(err, write(o, r))
}

// rounds goes on with the others when one fails, for they have taken long.
func rounds(ctx context.Context, o *options, ground *peer.Ground, r *report.Results) error {
	var errs []error
	for round := range o.rounds {
		for _, c := range o.contenders {
			begun, outcome := time.Now(), "done"
			f, err := trial.Run(ctx, ground, c, o.plan, logger(o))
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				errs, outcome = append(errs, err), "FAILED: "+err.Error()
				r.Failures = append(r.Failures, fmt.Sprintf("%s in round %d", c.Name, round+1))
			}
			r.Figures[c.Name] = append(r.Figures[c.Name], f)
			fmt.Fprintf(os.Stderr, "round %d of %d: %s %s in %v\n", round+1, o.rounds, c.Name, outcome, time.Since(begun).Round(time.Second))
		}
	}
	return errors.Join(errs...)
}

// again reports on a comparison that was made before.
func again(o *options) error {
	b, err := os.ReadFile(o.from)
	if err != nil {
		return err
	}
	r := new(report.Results)
	if err := json.Unmarshal(b, r); err != nil {
		return fmt.Errorf("reading figures from %s: %w", o.from, err)
	}
	fmt.Print(r.Text())
	return write(o, r)
}

func logger(o *options) *slog.Logger {
	if o.verbose {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.DiscardHandler)
}

// write makes the files that are wanted.
func write(o *options, r *report.Results) error {
	if o.json != "" {
		b, err := json.MarshalIndent(r, "", "\t")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if o.svg != "" {
		if err := os.WriteFile(o.svg, r.Chart(), 0o644); err != nil {
			return err
		}
	}
	if o.page != "" {
		return os.WriteFile(o.page, []byte(r.Page("docs/benchmarks.svg")), 0o644)
	}
	return nil
}

// groups are those of the contenders, in their order.
func groups(contenders []*peer.Contender) (all []report.Group) {
	titles := map[peer.Group]string{peer.DirectGroup: "direct", peer.RelayGroup: "relayed", peer.DERPGroup: "relays on their own"}
	for _, c := range contenders {
		title := titles[c.Group]
		if len(all) == 0 || all[len(all)-1].Name != title {
			all = append(all, report.Group{Name: title})
		}
		g := &all[len(all)-1]
		g.Contenders = append(g.Contenders, c.Name)
	}
	return all
}

// commit is the last that changed the product, as far as it is known.
func commit(ctx context.Context, root string) string {
	out, err := exec.CommandContext(ctx, "git", "-C", root, "log", "-1", "--format=%h", "--",
		"*.go", "go.mod", ":!bench", ":!interop", ":!*_test.go").Output()
	if text := strings.TrimSpace(string(out)); err == nil && text != "" {
		return text
	}
	return "unknown"
}

// machine is what may be of interest of it.
func machine() string {
	name := runtime.GOARCH
	b, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range bytes.Lines(b) {
			if key, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.HasPrefix(key, []byte("model name")) {
				name = string(bytes.TrimSpace(value))
				break
			}
		}
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("unknown")
	}
	return fmt.Sprintf("%d cores of %s, Linux %s, with %s processes running before", runtime.NumCPU(), name, bytes.TrimSpace(kernel), busy())
}

// busy is how many processes others have had running in the last minute: with more than a few, ratios are what remains.
func busy() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	average, _, _ := strings.Cut(string(b), " ")
	return average
}
