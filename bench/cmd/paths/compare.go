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

// Compare measures the contenders in turn on every path and reports the figures.
func (c *comparison) Compare(ctx context.Context) error {
	bed, err := session.NewTestbed(c.Programs, tcpBuffer)
	if err != nil {
		return err
	}
	defer bed.Close()
	if err := netlab.CheckEmulation(); err != nil {
		return err
	}
	p := &report.Paths{Run: c.NewRun(ctx), Paths: c.described()}
	p.Seconds = c.plan.Seconds
	begun := time.Now()
	err = c.rounds(ctx, &bed.Testbed, p)
	p.Took = time.Since(begun).Round(time.Minute).String()
	fmt.Print(p.Text())
	if ctx.Err() != nil {
		return err
	}
	return errors.Join(err, c.SavePaths(p))
}

// described returns the description of each path, without figures.
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

// rounds measures all rounds. If a contender fails on a path, the others are still measured.
func (c *comparison) rounds(ctx context.Context, bed *peer.Testbed, p *report.Paths) error {
	var errs []error
	for round := range c.Rounds {
		for i, path := range c.paths {
			for _, contender := range c.on(path) {
				begun, outcome := time.Now(), "done"
				f, err := trial.RunPath(ctx, bed, contender, path, c.plan, c.Log)
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

// ReportFile reports on a comparison from a file of figures.
func (c *comparison) ReportFile() (wanted bool, err error) {
	if c.From == "" {
		return false, nil
	}
	p, err := session.ReadFigures[report.Paths](c.From)
	if err != nil {
		return true, err
	}
	fmt.Print(p.Text())
	return true, c.SavePaths(p)
}
