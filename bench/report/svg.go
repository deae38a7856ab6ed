package report

import (
	"bytes"
	"encoding/xml"
	"fmt"
)

// panel is a part of the chart: one figure of some contenders as horizontal bars.
type panel struct {
	title   string
	figure  string
	of      []string
	forward string // which way is better
}

var panels = []panel{
	{"direct, one connection, down, Mbit/s", "down1.mbps",
		[]string{"ginnel", "tailscaled", "ginnel-wireguard", "wireproxy"}, "longer is better"},
	{"direct, eight connections, down, Mbit/s", "down8.mbps",
		[]string{"ginnel", "tailscaled", "ginnel-wireguard", "wireproxy"}, "longer is better"},
	{"64-byte round trip, median, us", "trips.p50_us", []string{"ginnel", "tailscaled", "ginnel-wireguard", "wireproxy"},
		"shorter is better"},
	{"memory in bulk transfer, MB", "bulk.peak_mb", []string{"ginnel", "tailscaled", "ginnel-wireguard", "wireproxy"},
		"shorter is better"},
	{"relayed, one connection, down, Mbit/s", "down1.mbps",
		[]string{"ginnel/ginnel-relay", "tailscaled/ginnel-relay", "tailscaled/derper"}, "longer is better"},
}

// Sizes in units of the chart.
const (
	chartWidth  = 760
	labelWidth  = 190
	valueWidth  = 70
	barHeight   = 18
	lineHeight  = 24
	titleHeight = 34
	margin      = 16
	ourColour   = "#2563eb"
	theirColour = "#9ca3af"
)

// Chart draws the panels that have figures. The chart has its own background, so that it is legible
// on light and dark pages.
func (r *Results) Chart() []byte {
	var body bytes.Buffer
	y := margin
	for _, p := range panels {
		y = r.panel(&body, p, y)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b,
		`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n",
		chartWidth, y+margin/2)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="8" fill="#ffffff"/>`+"\n")
	b.Write(body.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// panel draws a panel at y and returns the y of the next one.
func (r *Results) panel(b *bytes.Buffer, p panel, y int) int {
	type line struct {
		name  string
		value float64
	}
	var lines []line
	longest := 0.0
	for _, c := range p.of {
		if v, ok := r.Figures.median(c, p.figure); ok {
			lines = append(lines, line{c, v})
			longest = max(longest, v)
		}
	}
	if longest == 0 {
		return y
	}
	fmt.Fprintf(b,
		`<text x="%d" y="%d" font-weight="bold" fill="#111827">%s `+
			`<tspan font-weight="normal" fill="#6b7280">(%s)</tspan></text>`+"\n",
		margin, y+lineHeight/2, escape(p.title), escape(p.forward))
	y += titleHeight - lineHeight/2
	for _, l := range lines {
		width := l.value / longest * (chartWidth - 2*margin - labelWidth - valueWidth)
		fmt.Fprintf(b, `<text x="%d" y="%d" fill="#374151">%s</text>`, margin, y+barHeight-4, escape(l.name))
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="3" fill="%s"/>`, margin+labelWidth, y, width,
			barHeight, colour(l.name))
		fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#111827">%s</text>`+"\n", margin+labelWidth+width+6, y+barHeight-4,
			show(l.value))
		y += lineHeight
	}
	return y + margin/2
}

func colour(contender string) string {
	if len(contender) >= 6 && contender[:6] == "ginnel" {
		return ourColour
	}
	return theirColour
}

func escape(s string) string {
	var b bytes.Buffer
	xml.EscapeText(&b, []byte(s))
	return b.String()
}
