package load

import (
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
	Bulk       Kind = "bulk"      // mbps; cpu_s_per_gb and peak_mb of the programs; stalled connections
	RoundTrips Kind = "trips"     // p50_us, p99_us; cpu_us of the programs for each
	Requests   Kind = "requests"  // per_s, failed; cpu_us of the programs for each
	Idle       Kind = "idle"      // kb_per_conn of all programs together
	Datagrams  Kind = "datagrams" // per_s, the most without a loss
	First      Kind = "first"     // unix_s, when the first byte had come
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
	Duration  time.Duration `json:",omitempty"`
	PIDs      []int         `json:",omitempty"` // the programs whose costs are of interest
}

// Figures are results by name.
type Figures map[string]float64

// Measure does what the spec says. Bytes that are not those that were sent are an error, as is a measurement in which
// nothing arrived.
func Measure(ctx context.Context, s Spec) (Figures, error) {
	measure, ok := map[Kind]func(context.Context, *Spec) (Figures, error){
		Bulk: bulk, RoundTrips: roundTrips, Requests: requests, Idle: idle, Datagrams: datagrams, First: first,
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
func (s *Spec) warmup() time.Duration { return s.Duration / 4 }

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
