package trial

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"ginnel/bench/load"
	"ginnel/bench/netlab"
	"ginnel/bench/peer"
	"ginnel/bench/proc"
)

// join starts both nodes and returns the far node's address in the mesh. The far node is ready
// before the near one starts. The time from the start of the near node to the first byte through
// its proxy is recorded.
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
	probe, err := r.begin(load.Spec{Kind: load.First, Proxy: t.Contender.SOCKS,
		Target: netip.AddrPortFrom(addr, peer.ServicePort), Duration: joinLimit})
	if err != nil {
		return addr, err
	}
	started := time.Now()
	if err := t.Near.Start(ctx); err != nil {
		return addr, errors.Join(err, probe.abandon())
	}
	f, err := probe.result(ctx)
	if err != nil {
		return addr, fmt.Errorf("waiting for the first byte: %w\n%s\n%s", err, t.Near.Process().Tail(),
			t.Far.Process().Tail())
	}
	took := f["unix_s"] - float64(started.UnixNano())/1e9
	r.record("join", load.Figures{"s": took})
	if _, err := t.Near.Ready(ctx); err != nil {
		return addr, err
	}
	return addr, r.settle(ctx)
}

// settle waits until the nodes use the wanted path, then waits r.rest and records their memory. On
// an emulated path it is no error if they stay on the relay, because the relay may be the better
// path there.
func (r *run) settle(ctx context.Context) error {
	t, want := r.trial, peer.DirectPath
	if t.Contender.Group == peer.RelayGroup {
		want = peer.RelayPath
	}
	limited, cancel := ctx, context.CancelFunc(func() {})
	if r.path != (netlab.Path{}) {
		limited, cancel = context.WithTimeout(ctx, pathLimit)
	}
	defer cancel()
	err := t.Near.Process().Until(limited, "its path is "+string(want), func(ctx context.Context) error {
		got, err := r.currentPath(ctx)
		if err == nil && got != want {
			err = fmt.Errorf("its path is %s", got)
		}
		return err
	})
	if err != nil && (limited.Err() == nil || ctx.Err() != nil) {
		return err
	}
	if err := wait(ctx, r.rest); err != nil {
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
	r.record("joined", load.Figures{"mb": most})
	return nil
}

// currentPath returns how the near node reaches the far one.
func (r *run) currentPath(ctx context.Context) (peer.Path, error) {
	return r.trial.Near.Path(ctx, r.trial.Service.Name)
}
