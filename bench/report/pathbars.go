package report

import (
	"fmt"
	"slices"
)

// pathBar is a bar on paths. Its value is calculated for each path and figure, and the worst
// counts, or the median if the bar says so.
type pathBar struct {
	title       string
	on          func(*Path) bool
	figures     []string
	ours        string
	theirs      string // empty: the bar is on the figure itself
	bound, goal float64
	sense       sense
	of          statistic
}

// statistic selects one of many values.
type statistic int

const (
	worst statistic = iota
	median
)

// The conditions that select paths:

func named(names ...string) func(*Path) bool {
	return func(p *Path) bool { return slices.Contains(names, p.Name) }
}

func every(*Path) bool { return true }

// usual selects paths without loss and reordering, of up to 150 ms and 300 Mbit/s.
func usual(p *Path) bool { return p.Clean && p.RTT <= 150 && p.Mbps <= 300 }

var (
	one    = []string{"down1.mbps", "up1.mbps"}
	memory = []string{"down1.peak_mb", "up1.peak_mb"}
	first  = []string{"first-down.s", "first-up.s"}
	tails  = []string{"down1.beside_p99_ms", "up1.beside_p99_ms"}
)

// pathBars lists the bars.
var pathBars = []pathBar{
	{"1 connection, clean, up to 150 ms and 300 Mbit/s", usual, one, "ginnel", "kernel-cubic", 0.85, 0.95, atLeast, worst},
	{"1 connection, 66 ms, 0.1 % lost", named("rtt66-loss0.1"), one, "ginnel", "kernel-cubic", 1, 1, atLeast, worst},
	{"1 connection, 66 ms, 1 % late", named("rtt66-late1"), one, "ginnel", "kernel-cubic", 1, 1, atLeast, worst},
	{"1 connection, 66 ms, 0.1 % lost", named("rtt66-loss0.1"), one, "ginnel", "kernel-bbr", 0, 0.8, atLeast, worst},
	{"1 connection, 66 ms, 1 % late", named("rtt66-late1"), one, "ginnel", "kernel-bbr", 0, 0.8, atLeast, worst},
	{"1 connection, every path", every, one, "ginnel", "tailscaled", 1, 3, atLeast, worst},
	{"1 connection, median of all paths", every, one, "ginnel", "tailscaled", 1.5, 3, atLeast, median},
	{"relayed over our relay, 66 ms", named("rtt66"), one, "ginnel/ginnel-relay", "kernel-forwarded", 0.8, 0.95, atLeast,
		worst},
	{"relayed over derper, 66 ms", named("rtt66"), one, "ginnel/derper", "tailscaled/derper", 1.5, 5, atLeast, worst},
	{"first 10 MiB, 66 ms, 100 Mbit/s, time", named("rtt66-slow"), first, "ginnel", "kernel-cubic", 1.25, 1.1, atMost,
		worst},
	{"exchange beside bulk, p99, clean, up to 150 ms and 300 Mbit/s", usual, tails, "ginnel", "kernel-cubic", 1.2, 1,
		atMost, worst},
	{"memory, 150 ms and 300 Mbit/s, MB", named("rtt150"), memory, "ginnel", "", 48, 32, atMost, worst},
}

// cell is a value with its path and figure.
type cell struct {
	value float64
	at    string
}

// cells returns all values of a bar.
func (p *Paths) cells(b *pathBar) (all []cell) {
	for i := range p.Paths {
		path := &p.Paths[i]
		if !b.on(path) {
			continue
		}
		for _, figure := range b.figures {
			value, ok := path.Figures.median(b.ours, figure)
			if b.theirs != "" {
				theirs, have := path.Figures.median(b.theirs, figure)
				ok = ok && have && theirs != 0
				value /= theirs
			}
			if ok {
				all = append(all, cell{value, path.Name + " " + figure})
			}
		}
	}
	return all
}

// outcome returns the value that counts.
func (b *pathBar) outcome(all []cell) cell {
	slices.SortFunc(all, func(x, y cell) int {
		switch {
		case x.value == y.value:
			return 0
		case b.sense.met(x.value, y.value):
			return 1
		}
		return -1
	})
	if b.of == worst {
		return all[0]
	}
	var values []float64
	for _, c := range all {
		values = append(values, c.value)
	}
	return cell{Median(values), fmt.Sprintf("%d figures", len(all))}
}

// verdicts compares the figures with the bars. Bars without figures are omitted.
func (p *Paths) verdicts() table {
	t := table{{"figure", "of", "against", "bar", "aim", "measured", "", "where"}}
	for _, b := range pathBars {
		all := p.cells(&b)
		if len(all) == 0 {
			continue
		}
		got, against := b.outcome(all), b.theirs
		if against == "" {
			against = missing
		}
		t = append(t, []string{
			b.title, b.ours, against, b.sense.limit(b.bound), b.sense.limit(b.goal), show(got.value),
			b.sense.verdict(got.value, b.bound, b.goal), got.at,
		})
	}
	return t
}
