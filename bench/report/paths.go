package report

import (
	"fmt"
	"strings"
)

// Paths are the figures of a comparison on emulated paths. They are what is kept, as JSON; all else is made from them.
type Paths struct {
	Run
	Took  string // the whole comparison
	Paths []Path
}

// Path is one of them.
type Path struct {
	Name       string
	About      string  // in words
	RTT        float64 // ms, without queues
	Mbps       float64 // of the bottleneck
	Contenders []string
	Figures    Figures
}

// pathMeasure tells how a figure of a path is shown.
type pathMeasure struct {
	figure string
	title  string
}

// pathMeasures are in the order of tables. What is not here is in the JSON only.
var pathMeasures = []pathMeasure{
	{"down1.mbps", "1 connection down, Mbit/s"},
	{"up1.mbps", "1 connection up, Mbit/s"},
	{"down8.mbps", "8 connections down, Mbit/s"},
	{"up8.mbps", "8 connections up, Mbit/s"},
	{"first-down.s", "first 10 MiB of a connection, down, s"},
	{"first-up.s", "first 10 MiB of a connection, up, s"},
	{"fetch100k.p50_ms", "100 kB over a new connection, ms"},
	{"fetch1m.p50_ms", "1 MB over a new connection, ms"},
	{"down1.beside_p50_ms", "64-byte exchange beside 1 down, p50, ms"},
	{"down1.beside_p99_ms", "64-byte exchange beside 1 down, p99, ms"},
	{"up1.beside_p50_ms", "64-byte exchange beside 1 up, p50, ms"},
	{"up1.beside_p99_ms", "64-byte exchange beside 1 up, p99, ms"},
	{"pair.least_percent", "share of the slower of 2 connections, %"},
	{"rival.rival_percent", "share of a kernel CUBIC connection beside it, %"},
	{"down1.dropped_percent", "dropped by the bottleneck, 1 down, %"},
	{"up1.dropped_percent", "dropped by the bottleneck, 1 up, %"},
	{"down1.cpu_s_per_gb", "processor time of both nodes, 1 down, s/GB"},
	{"up1.cpu_s_per_gb", "processor time of both nodes, 1 up, s/GB"},
	{"down1.peak_mb", "most memory of a node, 1 down, MB"},
	{"up1.peak_mb", "most memory of a node, 1 up, MB"},
	{"down8.peak_mb", "most memory of a node, 8 down, MB"},
}

// table has a line for each figure that one of the contenders has.
func (p *Path) table() table {
	t := table{append([]string{p.Name}, p.Contenders...)}
	names := p.Figures.names(p.Contenders)
	for _, m := range pathMeasures {
		if !names[m.figure] {
			continue
		}
		line := []string{m.title}
		for _, c := range p.Contenders {
			line = append(line, p.cell(c, m.figure))
		}
		t = append(t, line)
	}
	return t
}

func (p *Path) cell(contender, figure string) string {
	v, ok := p.Figures.median(contender, figure)
	if !ok {
		return missing
	}
	return show(v)
}

// Text is everything for a terminal.
func (p *Paths) Text() string {
	var b strings.Builder
	for _, path := range p.Paths {
		fmt.Fprintf(&b, "%s: %s\n%s\n", path.Name, path.About, path.table().text())
	}
	return b.String()
}

// Chart is not there yet.
func (p *Paths) Chart() []byte { return nil }
