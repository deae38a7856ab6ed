package report

import (
	"fmt"
	"slices"
	"strings"
)

// Paths are the figures of a comparison on emulated paths. They are kept as JSON; tables, bars and
// chart are made from them.
type Paths struct {
	Run
	Took  string // duration of the whole comparison
	Paths []Path // in the order of the tables
}

// Path has the figures of one path.
type Path struct {
	Name       string
	About      string  // in words
	RTT        float64 // ms, without queueing delay
	Mbps       float64 // of the bottleneck
	Clean      bool    // no random loss and no reordering
	Contenders []string
	Figures    Figures
}

// contenders returns all contenders that were measured on any path, in their order.
func (p *Paths) contenders() (all []string) {
	for _, path := range p.Paths {
		for i, c := range path.Contenders {
			if slices.Contains(all, c) {
				continue
			}
			at := len(all) // right after its predecessor on this path
			if i > 0 {
				at = slices.Index(all, path.Contenders[i-1]) + 1
			}
			all = slices.Insert(all, at, c)
		}
	}
	return all
}

// pathTable is a table with a line for each path and a column for each contender. A cell has one or
// two figures.
type pathTable struct {
	title   string
	figures []string
}

// pathTables lists the tables in their order. Figures that are not listed are only in the JSON
// file.
var pathTables = []pathTable{
	{"1 connection, down / up, Mbit/s", []string{"down1.mbps", "up1.mbps"}},
	{"8 connections, down / up, Mbit/s", []string{"down8.mbps", "up8.mbps"}},
	{"first 10 MiB of a new connection, down / up, s", []string{"first-down.s", "first-up.s"}},
	{"100 kB / 1 MB over a new connection, median, ms", []string{"fetch100k.p50_ms", "fetch1m.p50_ms"}},
	{"64-byte exchange beside 1 connection down, p50 / p99, ms", []string{"down1.beside_p50_ms", "down1.beside_p99_ms"}},
	{"64-byte exchange beside 1 connection up, p50 / p99, ms", []string{"up1.beside_p50_ms", "up1.beside_p99_ms"}},
	{"share of the slower of 2 connections, %", []string{"pair.least_percent"}},
	{"share of a kernel connection with CUBIC beside 1 connection, %", []string{"rival.rival_percent"}},
	{"dropped by the bottleneck's queue, 1 connection, down / up, %",
		[]string{"down1.dropped_percent", "up1.dropped_percent"}},
	{"processor time of both nodes, 1 connection, down / up, s/GB", []string{"down1.cpu_s_per_gb", "up1.cpu_s_per_gb"}},
	{"memory of the larger node, at most, 1 connection, down / up, MB", []string{"down1.peak_mb", "up1.peak_mb"}},
	{"memory of the larger node, at most, 8 connections, down / up, MB", []string{"down8.peak_mb", "up8.peak_mb"}},
	{"idle time of the machine's processors meanwhile, down / up, %", []string{"down1.idle_percent", "up1.idle_percent"}},
}

// firstMB is the size of a complete transfer of the first bytes, in MB.
const firstMB = 10.48576

// table makes a table without empty lines and columns.
func (p *Paths) table(pt pathTable) table {
	var columns []string
	for _, c := range p.contenders() {
		if slices.ContainsFunc(p.Paths, func(path Path) bool { return path.cell(c, pt) != missing }) {
			columns = append(columns, c)
		}
	}
	t := table{append([]string{"path"}, columns...)}
	for _, path := range p.Paths {
		line := []string{path.Name}
		empty := true
		for _, c := range columns {
			cell := path.cell(c, pt)
			line, empty = append(line, cell), empty && cell == missing
		}
		if !empty {
			t = append(t, line)
		}
	}
	return t
}

// cell writes the figures of a contender. "> " stands before the time of a transfer that was
// stopped.
func (p *Path) cell(contender string, pt pathTable) string {
	var all []string
	found := false
	for _, figure := range pt.figures {
		text := missing
		if v, ok := p.Figures.median(contender, figure); ok {
			text, found = show(v), true
			if mb, ok := p.Figures.median(contender, strings.TrimSuffix(figure, ".s")+".mb"); ok && mb < firstMB {
				text = "> " + text
			}
		}
		all = append(all, text)
	}
	if !found {
		return missing
	}
	return strings.Join(all, " / ") + p.mark(contender)
}

// relayMark marks figures of nodes that had a direct path available and used the relay at the end.
const relayMark = " (r)"

func (p *Path) mark(contender string) string {
	relayed := strings.Contains(contender, "/")
	if direct, ok := p.Figures.median(contender, "path.direct"); ok && direct < 1 && !relayed {
		return relayMark
	}
	return ""
}

// about makes the table that describes the paths.
func (p *Paths) about() table {
	t := table{{"path", "round trip, bottleneck, its queue, and more"}}
	for _, path := range p.Paths {
		t = append(t, []string{path.Name, path.About})
	}
	return t
}

// Text returns the report for a terminal.
func (p *Paths) Text() string {
	var b strings.Builder
	for _, path := range p.Paths {
		fmt.Fprintf(&b, "%s: %s\n", path.Name, path.About)
	}
	for _, pt := range pathTables {
		if t := p.table(pt); len(t) > 1 {
			fmt.Fprintf(&b, "\n%s\n%s", pt.title, t.text())
		}
	}
	if strings.Contains(b.String(), relayMark) {
		b.WriteString("\n(r): by the relay in the end, though a direct path was there\n")
	}
	if v := p.verdicts(); len(v) > 1 && !p.Smoke {
		b.WriteString("\nbars\n" + v.text())
	}
	return b.String()
}
