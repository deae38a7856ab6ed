package load

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Kind is what is measured.
type Kind string

// The measurements, and the figures that each gives.
const (
	// Bulk gives mbps; cpu_s_per_gb and peak_mb of the programs; stalled connections; least_percent,
	// the share of the slowest of several; rival_mbps and rival_percent; beside_p50_ms and
	// beside_p99_ms of the exchanges beside.
	Bulk       Kind = "bulk"
	RoundTrips Kind = "trips"     // p50_us, p99_us; cpu_us of the programs for each
	Requests   Kind = "requests"  // per_s, failed; cpu_us of the programs for each
	Idle       Kind = "idle"      // kb_per_conn of all programs together
	Datagrams  Kind = "datagrams" // per_s, the most without a loss
	First      Kind = "first"     // unix_s, when the first byte had come
	Transfer   Kind = "transfer"  // s, which is the limit if not all arrived; mb, what arrived; mbps
	Crowd      Kind = "crowd"     // served_percent, served_s, failed; per_s, round trips of those that are served
	Quiet      Kind = "quiet"     // wakeups_per_s, cpu_percent of the program that does most
	Fetches    Kind = "fetches"   // p50_ms; unfinished, which count with their limit
)

// Direction is which way bulk goes, as the client sees it.
type Direction string

// The directions.
const (
	Down Direction = "down"
	Up   Direction = "up"
	Both Direction = "both"
)

// Spec is one measurement.
type Spec struct {
	Kind      Kind
	Proxy     Proxy
	Target    netip.AddrPort
	Conns     int           `json:",omitempty"` // at a time
	Direction Direction     `json:",omitempty"` // of Bulk
	Duration  time.Duration `json:",omitempty"` // of Transfer and of one of the Fetches: the limit
	Warmup    time.Duration `json:",omitempty"` // 0: a quarter of Duration
	Bytes     int           `json:",omitempty"` // of a Transfer, and of each of the Fetches
	Beside    int           `json:",omitempty"` // connections with exchanges beside Bulk
	Rival     *Rival        `json:",omitempty"` // beside Bulk, in the same direction
	PIDs      []int         `json:",omitempty"` // the programs whose costs are of interest
}

// Rival is one connection of bulk that competes with those that are measured.
type Rival struct {
	Proxy  Proxy
	Target netip.AddrPort
}

// Figures are results by name.
type Figures map[string]float64

// Measure does what the spec says. Bytes that are not those that were sent are an error, as is a
// measurement in which nothing arrived.
func Measure(ctx context.Context, s Spec) (Figures, error) {
	measure, ok := map[Kind]func(context.Context, *Spec) (Figures, error){
		Bulk: bulk, RoundTrips: roundTrips, Requests: requests, Idle: idle, Datagrams: datagrams, First: first,
		Transfer: transfer, Fetches: fetches, Crowd: crowded, Quiet: quiet,
	}[s.Kind]
	if !ok {
		return nil, fmt.Errorf("load: there is no measurement %q", s.Kind)
	}
	s.Conns = max(s.Conns, 1)
	f, err := measure(ctx, &s)
	if err != nil {
		return nil, fmt.Errorf("measuring %s by %s: %w", s.Kind, s.Proxy.Kind, err)
	}
	return f, nil
}

// warmup is the part of a measurement that is not counted: windows open, pools fill.
func (s *Spec) warmup() time.Duration { return cmp.Or(s.Warmup, s.Duration/4) }

// readMessage reads n bytes and compares them with the pattern.
func readMessage(r io.Reader, n int, offset uint64) error {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	if !matches(b, offset) {
		return errSpoilt
	}
	return nil
}
