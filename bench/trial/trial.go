package trial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"time"

	"ginnel/bench/load"
	"ginnel/bench/peer"
	"ginnel/bench/proc"
)

const (
	// joinLimit bounds the way from a start to the first byte.
	joinLimit = 60 * time.Second
	// stepLimit bounds a measurement, beside its own duration.
	stepLimit = 3 * time.Minute
)

func number(name string, n int) string { return name + strconv.Itoa(n) }

// Run measures one contender once. What fails leaves out its own figures only; they come with the error.
func Run(ctx context.Context, g *peer.Ground, c *peer.Contender, p Plan, log *slog.Logger) (load.Figures, error) {
	r := &run{ground: g, plan: p, figures: make(load.Figures), log: log.With("contender", c.Name)}
	var parts []func(context.Context) error
	if c.Group == peer.DERPGroup {
		for _, steps := range p.relayParts() {
			parts = append(parts, func(ctx context.Context) error { return r.relaySteps(ctx, steps) })
		}
	} else {
		for _, steps := range p.parts(c.SOCKS, c.HTTP, !c.NoDatagrams) {
			parts = append(parts, func(ctx context.Context) error { return r.steps(ctx, steps) })
		}
	}
	var errs []error
	for _, part := range parts {
		if err := r.part(ctx, c, part); err != nil {
			errs = append(errs, fmt.Errorf("trying %s: %w", c.Name, err))
		}
	}
	return r.figures, errors.Join(errs...)
}

// part sets the contender up for a part of the measurements.
func (r *run) part(ctx context.Context, c *peer.Contender, measure func(context.Context) error) (err error) {
	begun, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	if r.trial, err = r.ground.Prepare(begun, c); err != nil {
		return err
	}
	defer r.trial.Close()
	return measure(ctx)
}

// run is a trial that goes on.
type run struct {
	trial   *peer.Trial
	ground  *peer.Ground
	plan    Plan
	figures load.Figures
	log     *slog.Logger
}

// steps starts the nodes and makes the measurements.
func (r *run) steps(ctx context.Context, steps []step) error {
	t := r.trial
	service, err := r.serve(ctx)
	if err != nil {
		return err
	}
	defer service.Kill()
	target := netip.AddrPortFrom(t.Service.Addr, peer.ServicePort)
	if t.Near != nil {
		addr, err := r.join(ctx)
		if err != nil {
			return err
		}
		target = netip.AddrPortFrom(addr, peer.ServicePort)
	}
	var errs []error
	for _, s := range steps {
		if err := wait(ctx, r.plan.Calm); err != nil {
			return err
		}
		s.spec.Target, s.spec.PIDs = target, r.pids()
		f, err := r.measure(ctx, s.spec)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
			continue
		}
		r.take(s.name, f)
	}
	return errors.Join(append(errs, r.check())...)
}

// join starts both nodes. The far one is ready before the near one starts, which is timed until the first byte has come
// through its proxy.
func (r *run) join(ctx context.Context) (addr netip.Addr, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	t := r.trial
	if err := t.Far.Start(ctx); err != nil {
		return addr, err
	}
	if addr, err = t.Far.Ready(ctx); err != nil {
		return addr, err
	}
	probe, err := r.begin(load.Spec{Kind: load.First, Proxy: t.Contender.SOCKS, Target: netip.AddrPortFrom(addr, peer.ServicePort), Duration: joinLimit})
	if err != nil {
		return addr, err
	}
	started := time.Now()
	if err := t.Near.Start(ctx); err != nil {
		return addr, errors.Join(err, probe.abandon())
	}
	f, err := probe.result(ctx)
	if err != nil {
		return addr, fmt.Errorf("waiting for the first byte: %w\n%s\n%s", err, t.Near.Process().Tail(), t.Far.Process().Tail())
	}
	took := f["unix_s"] - float64(started.UnixNano())/1e9
	r.take("join", load.Figures{"s": took})
	if _, err := t.Near.Ready(ctx); err != nil {
		return addr, err
	}
	return addr, r.settle(ctx)
}

// settle waits until the nodes have the path that is to be measured, and then for calm, in which their memory is read.
func (r *run) settle(ctx context.Context) error {
	t, want := r.trial, peer.DirectPath
	if t.Contender.Group == peer.RelayGroup {
		want = peer.RelayPath
	}
	err := t.Near.Process().Until(ctx, "its path is "+string(want), func(ctx context.Context) error {
		got, err := t.Near.Path(ctx, t.Service.Name)
		if err == nil && got != want {
			err = fmt.Errorf("its path is %s", got)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := wait(ctx, r.plan.Settle); err != nil {
		return err
	}
	most := 0.0
	for _, pid := range r.pids() {
		m, err := proc.Resident(pid)
		if err != nil {
			return err
		}
		most = max(most, float64(m.Now)/1e6)
	}
	r.take("joined", load.Figures{"mb": most})
	return nil
}

func (r *run) pids() []int {
	if r.trial.Near == nil {
		return nil
	}
	return []int{r.trial.Near.Process().PID(), r.trial.Far.Process().PID()}
}

// check returns an error if a node has ended.
func (r *run) check() error {
	if r.trial.Near == nil {
		return nil
	}
	return errors.Join(r.trial.Near.Process().Check(), r.trial.Far.Process().Check())
}

// relaySteps measures a relay on its own.
func (r *run) relaySteps(ctx context.Context, steps []relayStep) error {
	var errs []error
	for _, s := range steps {
		if err := wait(ctx, r.plan.Calm); err != nil {
			return err
		}
		s.spec.Region, s.spec.PID = r.trial.Relay.Region, r.trial.Relay.Process.PID()
		f, err := r.measureRelay(ctx, s.spec)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
			continue
		}
		r.take(s.name, f)
	}
	return errors.Join(append(errs, r.trial.Relay.Process.Check())...)
}

// take keeps figures under the name of what was measured. Of peaks only the highest counts.
func (r *run) take(name string, f load.Figures) {
	for figure, v := range f {
		r.figures[name+"."+figure] = v
		if figure == "peak_mb" {
			r.figures["bulk.peak_mb"] = max(r.figures["bulk.peak_mb"], v)
		}
	}
	r.log.Info("measured", "what", name, "figures", f)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
