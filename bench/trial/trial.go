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
	"ginnel/bench/netlab"
	"ginnel/bench/peer"
	"ginnel/bench/proc"
)

const (
	// joinLimit bounds the time from a start to the first byte.
	joinLimit = 60 * time.Second
	// pathLimit bounds the wait for a direct path that is not required.
	pathLimit = 20 * time.Second
	// stepLimit bounds a measurement, in addition to its own duration.
	stepLimit = 3 * time.Minute
)

func number(name string, n int) string { return name + strconv.Itoa(n) }

// Run measures one contender once on the switch. If a measurement fails, only its figures are
// missing; the others are returned with the error.
func Run(ctx context.Context, g *peer.Testbed, c *peer.Contender, p Plan, log *slog.Logger) (load.Figures, error) {
	r := &run{bed: g, pause: p.Pause, rest: p.Settle, figures: make(load.Figures), log: log.With("contender", c.Name)}
	var parts []func(context.Context) error
	if c.Group == peer.DERPGroup {
		for _, steps := range p.relayParts() {
			parts = append(parts, func(ctx context.Context) error { return r.relaySteps(ctx, steps) })
		}
	} else {
		for _, steps := range p.parts(c) {
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

// RunPath does the same on a path.
func RunPath(ctx context.Context, g *peer.Testbed, c *peer.Contender, path Path, p PathPlan,
	log *slog.Logger) (load.Figures, error) {
	r := &run{
		bed: g, path: path.emulated(), pause: p.pause(path), rest: p.pause(path), figures: make(load.Figures),
		log: log.With("contender", c.Name, "path", path.Name),
	}
	err := r.part(ctx, c, func(ctx context.Context) error {
		err := r.steps(ctx, p.steps(path, c.SOCKS, r.rival()))
		if r.trial.Near != nil && r.check() == nil {
			err = errors.Join(err, r.recordPath(ctx))
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("trying %s on %s: %w", c.Name, path.Name, err)
	}
	return r.figures, err
}

// recordPath records whether the nodes have a direct path at the end.
func (r *run) recordPath(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pathLimit)
	defer cancel()
	way, err := r.currentPath(ctx)
	if err != nil {
		return err
	}
	direct := 0.0
	if way == peer.DirectPath {
		direct = 1
	}
	r.record("path", load.Figures{"direct": direct})
	return nil
}

// rival returns a concurrent kernel connection with CUBIC, the most common congestion control. It
// is nil for a contender that is CUBIC itself, and in groups whose hosts do not reach each other
// directly.
func (r *run) rival() *load.Rival {
	c := r.trial.Contender
	if c.Group != peer.DirectGroup || c.SOCKS.Congestion == load.CUBIC {
		return nil
	}
	return &load.Rival{
		Proxy:  load.Proxy{Kind: load.Direct, Congestion: load.CUBIC},
		Target: netip.AddrPortFrom(r.trial.Service.Addr, peer.ServicePort),
	}
}

// part prepares the contender and runs one part of the measurements.
func (r *run) part(ctx context.Context, c *peer.Contender, measure func(context.Context) error) (err error) {
	begun, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	if r.trial, err = r.bed.Prepare(begun, c, r.path); err != nil {
		return err
	}
	defer r.trial.Close()
	return measure(ctx)
}

// run is a running trial.
type run struct {
	trial   *peer.Trial
	bed     *peer.Testbed
	path    netlab.Path   // zero on the switch
	pause   time.Duration // before each measurement
	rest    time.Duration // before the first measurement
	figures load.Figures
	log     *slog.Logger
}

// steps starts the service and the nodes, and makes the measurements.
func (r *run) steps(ctx context.Context, steps []step) error {
	t := r.trial
	service, err := r.serve(ctx)
	if err != nil {
		return err
	}
	defer service.Kill()
	target := netip.AddrPortFrom(t.Direct, peer.ServicePort)
	if t.Near != nil {
		addr, err := r.join(ctx)
		if err != nil {
			return err
		}
		target = netip.AddrPortFrom(addr, peer.ServicePort)
	}
	var errs []error
	for _, s := range steps {
		if err := wait(ctx, r.pause); err != nil {
			return err
		}
		s.spec.Target, s.spec.PIDs = target, r.pids()
		f, err := r.counted(ctx, s.spec)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
			continue
		}
		r.record(s.name, f)
	}
	return errors.Join(append(errs, r.check())...)
}

// counted makes a measurement, and adds the idle time of the machine and what the path has dropped.
func (r *run) counted(ctx context.Context, s load.Spec) (load.Figures, error) {
	idle, err := proc.Processors()
	if err != nil {
		return nil, err
	}
	before, err := r.trial.Service.Counters()
	if err != nil {
		return nil, err
	}
	f, err := r.measure(ctx, s)
	if err != nil {
		return nil, err
	}
	after, err := r.trial.Service.Counters()
	if err != nil {
		return nil, err
	}
	busy, err := proc.Processors()
	if err != nil {
		return nil, err
	}
	if f == nil {
		f = make(load.Figures)
	}
	f["idle_percent"] = busy.IdlePercent(idle)
	counted := after.Sub(before)
	drops(f, s.Direction, counted)
	if counted.Overrun > 0 {
		err = fmt.Errorf("path emulator was too slow and lost %d packets", counted.Overrun)
	}
	return f, err
}

// drops adds what a path has dropped in the direction of the data.
func drops(f load.Figures, d load.Direction, c netlab.Counters) {
	way := c.Back
	if d == load.Up {
		way = c.Forward
	}
	if way.Packets > 0 {
		f["dropped_percent"] = 100 * float64(way.QueueFull) / float64(way.Packets)
		f["lost_percent"] = 100 * float64(way.Lost) / float64(way.Packets)
	}
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
		if err := wait(ctx, r.pause); err != nil {
			return err
		}
		s.spec.Region, s.spec.PID = r.trial.Relay.Region, r.trial.Relay.Process.PID()
		f, err := r.measureRelay(ctx, s.spec)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
			continue
		}
		r.record(s.name, f)
	}
	return errors.Join(append(errs, r.trial.Relay.Process.Check())...)
}

// record stores figures under the name of their measurement. For bulk.peak_mb the highest peak
// counts.
func (r *run) record(name string, f load.Figures) {
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
