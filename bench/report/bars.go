package report

import "fmt"

// bar is a bound and an aim for a figure of the product, or for its ratio to another contender's
// figure.
type bar struct {
	title       string
	figure      string
	ours        string
	theirs      string // empty: the bar is on the figure itself
	bound, goal float64
	sense       sense
}

// sense is the side of a bar on which values are good.
type sense int

const (
	atLeast sense = iota
	atMost
)

// met reports whether a value is on the good side of a bound.
func (s sense) met(value, bound float64) bool {
	if s == atMost {
		return value <= bound
	}
	return value >= bound
}

// verdict says whether a value reaches the aim, meets the bound or misses it. A bound of 0 means
// that there is only an aim.
func (s sense) verdict(value, bound, goal float64) string {
	switch {
	case s.met(value, goal):
		return "aim"
	case bound == 0:
		return missing
	case s.met(value, bound):
		return "met"
	}
	return "missed"
}

// limit formats a bound or an aim.
func (s sense) limit(bound float64) string {
	if bound == 0 {
		return missing
	}
	return fmt.Sprintf("%s %.4g", s, bound)
}

func (s sense) String() string {
	if s == atMost {
		return "<="
	}
	return ">="
}

// bars are the project's own targets on the switch.
var bars = []bar{
	{"direct, 1 down", "down1.mbps", "ginnel", "tailscaled", 2, 2.5, atLeast},
	{"direct, 1 up", "up1.mbps", "ginnel", "tailscaled", 2, 2.5, atLeast},
	{"direct, 1 down", "down1.mbps", "ginnel-wireguard", "wireproxy", 4, 5, atLeast},
	{"direct, 1 up", "up1.mbps", "ginnel-wireguard", "wireproxy", 4, 5, atLeast},
	{"direct, 8 down", "down8.mbps", "ginnel", "tailscaled", 2.5, 3, atLeast},
	{"direct, 8 up", "up8.mbps", "ginnel", "tailscaled", 2.5, 3, atLeast},
	{"direct, 64 down", "down64.mbps", "ginnel", "tailscaled", 2.5, 3, atLeast},
	{"direct, 64 up", "up64.mbps", "ginnel", "tailscaled", 2.5, 3, atLeast},
	{"64-byte round trip, p50", "trips.p50_us", "ginnel", "tailscaled", 0.65, 0.5, atMost},
	{"64-byte round trip, p99", "trips.p99_us", "ginnel", "tailscaled", 0.65, 0.5, atMost},
	{"connect-request-close, 1", "requests1.per_s", "ginnel", "tailscaled", 1.5, 2, atLeast},
	{"connect-request-close, 16", "requests16.per_s", "ginnel", "tailscaled", 1.5, 2, atLeast},
	{"datagrams without loss", "datagrams.per_s", "ginnel", "tailscaled", 2, 3, atLeast},
	{"relayed, 1 down", "down1.mbps", "ginnel/ginnel-relay", "tailscaled/derper", 6, 10, atLeast},
	{"relayed, 1 up", "up1.mbps", "ginnel/ginnel-relay", "tailscaled/derper", 6, 10, atLeast},
	{"relayed, p50", "trips.p50_us", "ginnel/ginnel-relay", "tailscaled/derper", 0.7, 0.7, atMost},
	{"relayed, 1 down", "down1.mbps", "tailscaled/ginnel-relay", "tailscaled/derper", 1, 1.5, atLeast},
	{"relayed, 1 up", "up1.mbps", "tailscaled/ginnel-relay", "tailscaled/derper", 1, 1.5, atLeast},
	{"relay, 100 pairs, a core, one packet a write", "singles100.pps_per_core", "ginnel-relay", "derper", 2, 3, atLeast},
	{"relay, 100 pairs, a core, 16 packets a write", "batches100.pps_per_core", "ginnel-relay", "derper", 2, 3, atLeast},
	{"relay, kB for an idle client", "idle10000.kb_per_client", "ginnel-relay", "", 28, 16, atMost},
	{"memory in bulk", "bulk.peak_mb", "ginnel", "tailscaled", 0.125, 0.125, atMost},
	{"memory in bulk", "bulk.peak_mb", "ginnel-wireguard", "wireproxy", 1, 1, atMost},
	{"memory in bulk, 1 down", "down1.peak_mb", "ginnel", "tailscaled", 0.125, 0.125, atMost},
	{"memory in bulk, 1 down, MB", "down1.peak_mb", "ginnel", "", 24, 24, atMost},
	{"memory joined and idle, MB", "joined.mb", "ginnel", "", 16, 12, atMost},
	{"start to the first byte", "join.s", "ginnel", "tailscaled", 0.2, 0.2, atMost},
	{"1000 connections at once, served, %", "crowd1000.served_percent", "ginnel", "", 100, 100, atLeast},
	{"2000 connections at once, served, %", "crowd2000.served_percent", "ginnel", "", 100, 100, atLeast},
	{"4000 connections at once, served, %", "crowd4000.served_percent", "ginnel", "", 100, 100, atLeast},
	{"10000 connections at once, served, %", "crowd10000.served_percent", "ginnel", "", 0, 100, atLeast},
	{"1000 connections at once, round trips a second", "crowd1000.per_s", "ginnel", "tailscaled", 1.5, 3, atLeast},
	{"2000 connections at once, round trips a second", "crowd2000.per_s", "ginnel", "tailscaled", 1.5, 3, atLeast},
	{"4000 connections at once, round trips a second", "crowd4000.per_s", "ginnel", "tailscaled", 1.5, 3, atLeast},
	{"wake-ups a second of an idle node", "quiet.wakeups_per_s", "ginnel", "", 8, 2, atMost},
	{"processor time of an idle node, %", "quiet.cpu_percent", "ginnel", "", 0.1, 0.02, atMost},
	{"as before, direct, 1 down", "down1.mbps", "ginnel", "ginnel-before", 0.97, 1, atLeast},
	{"as before, direct, 1 up", "up1.mbps", "ginnel", "ginnel-before", 0.97, 1, atLeast},
	{"as before, direct, 8 down", "down8.mbps", "ginnel", "ginnel-before", 0.97, 1, atLeast},
	{"as before, direct, 8 up", "up8.mbps", "ginnel", "ginnel-before", 0.97, 1, atLeast},
	{"as before, relayed, 1 down", "down1.mbps", "ginnel/ginnel-relay", "ginnel/ginnel-relay-before", 0.97, 1, atLeast},
	{"as before, relayed, 1 up", "up1.mbps", "ginnel/ginnel-relay", "ginnel/ginnel-relay-before", 0.97, 1, atLeast},
}

// verdicts compares the figures with the bars. Bars whose figures are missing are omitted.
func (r *Results) verdicts() table {
	t := table{{"figure", "of", "against", "bar", "aim", "measured", ""}}
	for _, b := range bars {
		value, ok := r.Figures.median(b.ours, b.figure)
		against := missing
		if b.theirs != "" {
			theirs, have := r.Figures.median(b.theirs, b.figure)
			ok = ok && have && theirs != 0
			value, against = value/theirs, b.theirs
		}
		if !ok {
			continue
		}
		t = append(t, []string{
			b.title, b.ours, against, b.sense.limit(b.bound), b.sense.limit(b.goal), show(value),
			b.sense.verdict(value, b.bound, b.goal),
		})
	}
	return t
}
