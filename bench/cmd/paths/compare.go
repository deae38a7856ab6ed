package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ginnel/bench/netlab"
	"ginnel/bench/peer"
	"ginnel/bench/report"
	"ginnel/bench/session"
	"ginnel/bench/trial"
)

// tcpBuffer is the largest buffer of a kernel TCP socket. It exceeds the bandwidth-delay product
// and the queue of each path, so that windows do not limit the kernel.
const tcpBuffer = 64 << 20

// Compare measures the contenders in turn on every path, and reports.
func (c *comparison) Compare(ctx context.Context) error {
	ground, err := session.NewGround(c.Programs, tcpBuffer)
	if err != nil {
		return err
	}
	defer ground.Close()
	if err := netlab.CheckEmulation(); err != nil {
		return err
	}
	p := &report.Paths{Run: c.NewRun(ctx), Paths: c.described()}
	p.Seconds = c.plan.Seconds
	begun := time.Now()
	err = c.rounds(ctx, &ground.Ground, p)
	p.Took = time.Since(begun).Round(time.Minute).String()
	fmt.Print(p.Text())
	if ctx.Err() != nil {
		return err
	}
	return errors.Join(err, c.SavePaths(p))
}

// described returns the paths without figures.
func (c *comparison) described() (all []report.Path) {
	for _, path := range c.paths {
		p := report.Path{
			Name: path.Name, About: path.About(), RTT: path.RTT.Seconds() * 1e3, Mbps: float64(path.Mbps),
			Clean: path.Loss == 0 && path.Reorder == 0, Figures: make(report.Figures),
		}
		for _, contender := range c.on(path) {
			p.Contenders = append(p.Contenders, contender.Name)
		}
		all = append(all, p)
	}
	return all
}

// on returns the contenders that are measured on a path.
func (c *comparison) on(path trial.Path) (some []*peer.Contender) {
	for _, contender := range c.Contenders {
		if c.Chosen || c.plan.All || path.Main || contender.Core {
			some = append(some, contender)
		}
	}
	return some
}

// rounds measures all rounds. If a contender fails on a path, it goes on with the others.
func (c *comparison) rounds(ctx context.Context, ground *peer.Ground, p *report.Paths) error {
	var errs []error
	for round := range c.Rounds {
		for i, path := range c.paths {
			for _, contender := range c.on(path) {
				begun, outcome := time.Now(), "done"
				f, err := trial.RunPath(ctx, ground, contender, path, c.plan, c.Log)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					errs, outcome = append(errs, err), "FAILED: "+err.Error()
					p.Failures = append(p.Failures, fmt.Sprintf("%s on %s in round %d", contender.Name, path.Name, round+1))
				}
				p.Paths[i].Figures[contender.Name] = append(p.Paths[i].Figures[contender.Name], f)
				fmt.Fprintf(os.Stderr, "round %d of %d: %s: %s %s in %v\n",
					round+1, c.Rounds, path.Name, contender.Name, outcome, time.Since(begun).Round(time.Second))
			}
		}
	}
	return errors.Join(errs...)
}

// Again reports on a comparison that was kept in a file.
func (c *comparison) Again() (wanted bool, err error) {
	if c.From == "" {
		return false, nil
	}
	p, err := session.Kept[report.Paths](c.From)
	if err != nil {
		return true, err
	}
	fmt.Print(p.Text())
	return true, c.SavePaths(p)
}
