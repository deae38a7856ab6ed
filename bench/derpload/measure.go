package derpload

import (
	"context"
	"fmt"
	"time"

	"ginnel/bench/load"
	"ginnel/bench/proc"
	"ginnel/relay"
)

// Kind is a kind of measurement.
type Kind string

// The measurements, and the figures that each gives.
const (
	Flood Kind = "flood" // pps, mbps; pps_per_core of the server; lost_percent
	Trips Kind = "trips" // p50_us, p99_us, between two clients; cpu_us of the server for each
	Idle  Kind = "idle"  // kb_per_client of the server
)

// Spec describes one measurement.
type Spec struct {
	Kind     Kind
	Region   *relay.Region // its only node is the server
	PID      int           // of the server
	Clients  int           `json:",omitempty"` // of Idle
	Pairs    int           `json:",omitempty"` // of Flood
	Batch    int           `json:",omitempty"` // packets in one call of Send
	Duration time.Duration
}

// Measure makes the measurement. It returns an error if a packet arrives that was not sent, or if
// none arrives.
func Measure(ctx context.Context, s Spec) (load.Figures, error) {
	measure, ok := map[Kind]func(context.Context, *Spec) (load.Figures, error){
		Flood: flood, Trips: trips, Idle: idle,
	}[s.Kind]
	if !ok {
		return nil, fmt.Errorf("derpload: unknown measurement %q", s.Kind)
	}
	f, err := measure(ctx, &s)
	if err != nil {
		return nil, fmt.Errorf("measuring %s of a relay: %w", s.Kind, err)
	}
	return f, nil
}

// idle connects clients that then do nothing, and checks that they are still connected after the
// duration.
func idle(ctx context.Context, s *Spec) (load.Figures, error) {
	before, err := proc.Resident(s.PID)
	if err != nil {
		return nil, err
	}
	p, err := connect(ctx, s.Region, s.Clients, nothing)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if err := wait(ctx, s.Duration); err != nil {
		return nil, err
	}
	after, err := proc.Resident(s.PID)
	if err != nil {
		return nil, err
	}
	if err := p.broken(); err != nil {
		return nil, err
	}
	return load.Figures{"kb_per_client": float64(after.Now-before.Now) / 1e3 / float64(s.Clients)}, nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
