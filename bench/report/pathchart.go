package report

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// curve is the line of a contender on the chart.
type curve struct {
	contender, colour, dash string
}

// curves lists the contenders on the chart.
var curves = []curve{
	{"kernel-bbr", "#6b7280", "2 3"},
	{"kernel-cubic", "#6b7280", ""},
	{"ginnel", ourColour, ""},
	{"ginnel/ginnel-relay", ourColour, "5 4"},
	{"tailscaled", "#f59e0b", ""},
	{"tailscaled/derper", "#f59e0b", "5 4"},
}

// fill is the colour of the points. Those of a dashed line are hollow.
func (c *curve) fill() string {
	if c.dash != "" {
		return "#ffffff"
	}
	return c.colour
}

// point is a place on the chart.
type point struct{ x, y float64 }

// draw draws the line and then its points.
func (c *curve) draw(b *bytes.Buffer, points []point) {
	if len(points) == 0 {
		return
	}
	var line []string
	for _, p := range points {
		line = append(line, fmt.Sprintf("%.1f,%.1f", p.x, p.y))
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2.5" stroke-dasharray="%s"/>`+"\n",
		strings.Join(line, " "), c.colour, c.dash)
	for _, p := range points {
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s" stroke="%s" stroke-width="1.5"/>`+"\n",
			p.x, p.y, c.fill(), c.colour)
	}
}

// Sizes in units of the chart.
const (
	plotLeft   = 60
	plotHeight = 220
	plotGap    = 64 // below a plot, for labels
	legend     = 26 // height of the line with the legend
)

// Chart draws the throughput of one connection down over the round trip time. One plot has the
// paths without loss and reordering, another one the rest. Throughput is a fraction of the
// bottleneck's rate, because the rate differs between paths.
func (p *Paths) Chart() []byte {
	var clean, other []Path
	for _, path := range p.Paths {
		if path.Clean {
			clean = append(clean, path)
		} else {
			other = append(other, path)
		}
	}
	for _, paths := range [][]Path{clean, other} {
		slices.SortStableFunc(paths, func(a, b Path) int {
			return cmp.Or(cmp.Compare(a.RTT, b.RTT), cmp.Compare(a.Mbps, b.Mbps))
		})
	}
	var body bytes.Buffer
	y := p.legend(&body, margin)
	y = plot(&body, "no loss, no reordering", clean, y)
	y = plot(&body, "loss and reordering", other, y)
	var b bytes.Buffer
	fmt.Fprintf(&b,
		`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		chartWidth, y)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="8" fill="#ffffff"/>`+"\n")
	b.Write(body.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// legend draws the names of measured contenders at y and returns the y of what follows.
func (p *Paths) legend(b *bytes.Buffer, y int) int {
	x, measured := margin, p.contenders()
	for _, c := range curves {
		if !slices.Contains(measured, c.contender) {
			continue
		}
		fmt.Fprintf(b, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="%s" stroke-width="2.5" stroke-dasharray="%s"/>`,
			x, y+4, x+24, y+4, c.colour, c.dash)
		fmt.Fprintf(b, `<text x="%d" y="%d" fill="#374151">%s</text>`+"\n", x+28, y+8, escape(c.contender))
		x += 40 + 7*len(c.contender)
	}
	return y + legend
}

// plot draws a plot at y and returns the y of what follows.
func plot(b *bytes.Buffer, title string, paths []Path, y int) int {
	if len(paths) == 0 {
		return y
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold" fill="#111827">%s <tspan font-weight="normal" fill="#6b7280">`+
		`(1 connection down, %% of the bottleneck's rate)</tspan></text>`+"\n", margin, y+10, escape(title))
	top := y + legend
	height := func(share float64) float64 { return float64(top) + plotHeight*(1-min(share, 1)) }
	for percent := 0; percent <= 100; percent += 25 {
		h := height(float64(percent) / 100)
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1[2]f" stroke="#e5e7eb"/>`, plotLeft, h, chartWidth-margin)
		fmt.Fprintf(b, `<text x="%d" y="%.1f" text-anchor="end" fill="#6b7280">%d</text>`+"\n", plotLeft-8, h+4, percent)
	}
	step := float64(chartWidth-margin-plotLeft) / float64(len(paths))
	place := func(i int) float64 { return plotLeft + step*(float64(i)+0.5) }
	for i, path := range paths {
		for n, text := range path.labels() {
			fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle" font-size="11" fill="#374151">%s</text>`+"\n",
				place(i), top+plotHeight+16+13*n, escape(text))
		}
	}
	for _, c := range curves {
		var points []point
		for i, path := range paths {
			if v, ok := path.Figures.median(c.contender, "down1.mbps"); ok {
				points = append(points, point{place(i), height(v / path.Mbps)})
			}
		}
		c.draw(b, points)
	}
	return top + plotHeight + plotGap
}

// labels returns the lines below a path on the chart.
func (p *Path) labels() []string {
	_, special, _ := strings.Cut(p.Name, "-")
	return []string{fmt.Sprintf("%v ms", p.RTT), fmt.Sprintf("%v Mbit/s", p.Mbps), special}
}
