package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ginnel/bench/peer"
	"ginnel/bench/report"
	"ginnel/bench/session"
	"ginnel/bench/trial"
)

// Compare measures every contender in turn in every round and reports the figures.
func (c *comparison) Compare(ctx context.Context) error {
	bed, err := session.NewTestbed(c.Programs, 0)
	if err != nil {
		return err
	}
	defer bed.Close()
	r := &report.Results{Run: c.NewRun(ctx), Groups: groups(c.Contenders), Figures: make(map[string][]map[string]float64)}
	r.Seconds = c.plan.Seconds
	err = c.rounds(ctx, &bed.Testbed, r)
	fmt.Print(r.Text())
	if ctx.Err() != nil {
		return err
	}
	return errors.Join(err, c.SaveSwitch(r))
}

// rounds measures all rounds. If a contender fails, the others are still measured.
func (c *comparison) rounds(ctx context.Context, bed *peer.Testbed, r *report.Results) error {
	var errs []error
	for round := range c.Rounds {
		for _, contender := range c.Contenders {
			begun, outcome := time.Now(), "done"
			f, err := trial.Run(ctx, bed, contender, c.plan, c.Log)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				errs, outcome = append(errs, err), "FAILED: "+err.Error()
				r.Failures = append(r.Failures, fmt.Sprintf("%s in round %d", contender.Name, round+1))
			}
			r.Figures[contender.Name] = append(r.Figures[contender.Name], f)
			fmt.Fprintf(os.Stderr, "round %d of %d: %s %s in %v\n", round+1, c.Rounds, contender.Name, outcome,
				time.Since(begun).Round(time.Second))
		}
	}
	return errors.Join(errs...)
}

// ReportFile reports on a comparison from a file of figures.
func (c *comparison) ReportFile() (wanted bool, err error) {
	if c.From == "" {
		return false, nil
	}
	r, err := session.ReadFigures[report.Results](c.From)
	if err != nil {
		return true, err
	}
	fmt.Print(r.Text())
	return true, c.SaveSwitch(r)
}

// groups returns the groups of the contenders, in the contenders' order.
func groups(contenders []*peer.Contender) (all []report.Group) {
	titles := map[peer.Group]string{peer.DirectGroup: "direct", peer.RelayGroup: "relayed",
		peer.DERPGroup: "relays on their own"}
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
