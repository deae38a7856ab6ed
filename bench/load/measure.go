package load

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Kind is a kind of measurement.
type Kind string

// The measurements, and the figures that each gives.
const (
	// Bulk gives mbps; cpu_s_per_gb and peak_mb of the programs; stalled connections;
	// least_percent, the share of the slowest of several connections; rival_mbps and rival_percent;
	// beside_p50_ms and beside_p99_ms of the concurrent exchanges.
	Bulk       Kind = "bulk"
	RoundTrips Kind = "trips"     // p50_us, p99_us; cpu_us of the programs for each
	Requests   Kind = "requests"  // per_s, failed; cpu_us of the programs for each
	Idle       Kind = "idle"      // kb_per_conn of all programs together
	Datagrams  Kind = "datagrams" // per_s, the highest rate without loss
	First      Kind = "first"     // unix_s, when the first byte arrived
	Transfer   Kind = "transfer"  // s, or the limit if it was reached; mb that arrived; mbps
	Crowd      Kind = "crowd"     // served_percent, served_s, failed; per_s, round trips of served connections
	Quiet      Kind = "quiet"     // wakeups_per_s, cpu_percent of the busiest program
	Fetches    Kind = "fetches"   // p50_ms; unfinished, whose time is the limit
)

// Direction is the direction of bulk data as the client sees it.
type Direction string

// The directions.
const (
	Down Direction = "down"
	Up   Direction = "up"
	Both Direction = "both"
)

// Spec describes one measurement.
type Spec struct {
	Kind      Kind
	Proxy     Proxy
	Target    netip.AddrPort
	Conns     int           `json:",omitempty"` // at a time
	Direction Direction     `json:",omitempty"` // of Bulk
	Duration  time.Duration `json:",omitempty"` // for Transfer and each of the Fetches: the limit
	Warmup    time.Duration `json:",omitempty"` // 0: a quarter of Duration
	Bytes     int           `json:",omitempty"` // size of a Transfer and of each of the Fetches
	Beside    int           `json:",omitempty"` // connections with exchanges during Bulk
	Rival     *Rival        `json:",omitempty"` // during Bulk, in the same direction
	PIDs      []int         `json:",omitempty"` // the programs whose costs are measured
}

// Rival is one bulk connection that competes with the measured ones.
type Rival struct {
	Proxy  Proxy
	Target netip.AddrPort
}

// Figures are results by name.
type Figures map[string]float64

// Measure makes the measurement. It returns an error if a byte arrives that was not sent, or if
// none arrives.
func Measure(ctx context.Context, s Spec) (Figures, error) {
	measure, ok := map[Kind]func(context.Context, *Spec) (Figures, error){
		Bulk: bulk, RoundTrips: roundTrips, Requests: requests, Idle: idle, Datagrams: datagrams, First: first,
		Transfer: transfer, Fetches: fetches, Crowd: crowded, Quiet: quiet,
	}[s.Kind]
	if !ok {
		return nil, fmt.Errorf("load: unknown measurement %q", s.Kind)
	}
	s.Conns = max(s.Conns, 1)
	f, err := measure(ctx, &s)
	if err != nil {
		return nil, fmt.Errorf("measuring %s by %s: %w", s.Kind, s.Proxy.Kind, err)
	}
	return f, nil
}

// warmup is the time at the start that is not measured, while TCP windows open and pools fill.
func (s *Spec) warmup() time.Duration { return cmp.Or(s.Warmup, s.Duration/4) }

// readMessage reads n bytes and compares them with the pattern.
func readMessage(r io.Reader, n int, offset uint64) error {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	if !matches(b, offset) {
		return errCorrupt
	}
	return nil
}
