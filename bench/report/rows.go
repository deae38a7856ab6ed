package report

import (
	"fmt"
	"strconv"
	"strings"
)

// measure is how a kind of figure is shown. A # in what and title stands for a number, as 8 in
// "down8".
type measure struct {
	what, figure string // parts of a name as in "down8.mbps"
	title        string
}

// measures lists the rows of the tables in their order. Figures that are not listed are only in the
// JSON file.
var measures = []measure{
	{"down#", "mbps", "down, # at a time, Mbit/s"},
	{"up#", "mbps", "up, # at a time, Mbit/s"},
	{"both#", "mbps", "both ways, # at a time, Mbit/s"},
	{"connect-down#", "mbps", "down by HTTP CONNECT, # at a time, Mbit/s"},
	{"trips", "p50_us", "64-byte round trip, p50, us"},
	{"trips", "p99_us", "64-byte round trip, p99, us"},
	{"connect-trips", "p50_us", "round trip by HTTP CONNECT, p50, us"},
	{"requests#", "per_s", "connect-request-close, # at a time, a second"},
	{"datagrams", "per_s", "datagrams of 1,200 bytes without loss, a second"},
	{"crowd#", "served_percent", "# connections dialled at once: served, %"},
	{"crowd#", "served_s", "# connections dialled at once: until all are served or refused, s"},
	{"crowd#", "per_s", "# connections dialled at once: round trips a second then"},
	{"quiet", "wakeups_per_s", "wake-ups a second, joined and idle, of a node"},
	{"quiet", "cpu_percent", "processor time, joined and idle, of a node, %"},
	{"join", "s", "start with a key to the first byte, s"},
	{"joined", "mb", "resident, joined and idle, MB"},
	{"down#", "peak_mb", "resident, most so far, down, # at a time, MB"},
	{"bulk", "peak_mb", "resident, most in bulk, MB"},
	{"idle#", "kb_per_conn", "resident for each of # idle connections, both nodes, kB"},
	{"down#", "cpu_s_per_gb", "processor time, down, # at a time, both nodes, s/GB"},
	{"trips", "cpu_us", "processor time of a round trip, us"},
	{"requests#", "cpu_us", "processor time of connect-request-close, # at a time, us"},
	{"singles#", "pps", "# pairs, one packet a write, packets/s"},
	{"singles#", "pps_per_core", "# pairs, one packet a write, packets/s and core"},
	{"batches#", "pps", "# pairs, 16 packets a write, packets/s"},
	{"batches#", "pps_per_core", "# pairs, 16 packets a write, packets/s and core"},
	{"batches#", "mbps", "# pairs, 16 packets a write, Mbit/s"},
	{"batches#", "lost_percent", "# pairs, 16 packets a write, lost, %"},
	{"idle#", "kb_per_client", "resident for each of # idle clients, kB"},
}

// row is a line of a table: a figure and its title.
type row struct {
	figure, title string
	number        int // -1 if the figure has none
}

// rows returns the rows of the existing figures, in order.
func rows(names map[string]bool) []row {
	var all []row
	for _, m := range measures {
		if name := m.what + "." + m.figure; names[name] {
			all = append(all, row{name, m.title, -1})
		}
		for _, n := range numbersOf(m, names) {
			text := strconv.Itoa(n)
			name := strings.Replace(m.what, "#", text, 1) + "." + m.figure
			all = append(all, row{name, strings.Replace(m.title, "#", text, 1), n})
		}
	}
	return all
}

// numbersOf returns the numbers that occur in the names of a measure's figures, in ascending order.
func numbersOf(m measure, names map[string]bool) (all []int) {
	prefix, numbered := strings.CutSuffix(m.what, "#")
	if !numbered {
		return nil
	}
	const most = 100000
	for name := range names {
		digits, ok := strings.CutSuffix(strings.TrimPrefix(name, prefix), "."+m.figure)
		n, err := strconv.Atoi(digits)
		if ok && err == nil && strings.HasPrefix(name, prefix) && n >= 0 && n <= most {
			all = append(all, n)
		}
	}
	return sorted(all)
}

// show formats a figure with three significant digits.
func show(v float64) string {
	switch {
	case v >= 10000:
		return thousands(int64(v + 0.5))
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func thousands(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}
