package report

import (
	"bytes"
	"encoding/xml"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ginnel/bench/peer"
)

// TestMedian proves the median of odd and even numbers of values, and that the values are not
// reordered.
func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{5}, 5}, {[]float64{9, 1, 4}, 4}, {[]float64{4, 1, 2, 100}, 3}} {
		before := slices.Clone(c.values)
		if got := Median(c.values); got != c.want || !slices.Equal(before, c.values) {
			t.Errorf("%v: got %v, want %v", before, got, c.want)
		}
	}
}

// TestShow proves that figures have three significant digits.
func TestShow(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.00", 0.034: "0.03", 9.994: "9.99", 12.34: "12.3", 123.4: "123", 1234: "1234", 12345.6: "12,346",
		1234567: "1,234,567", 1000000: "1,000,000",
	} {
		if got := show(v); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
}

// sample returns figures of two contenders, one of which lacks a figure.
func sample() *Results {
	return &Results{
		Run: Run{
			Date: "2026-01-02", Commit: "abc", Machine: "one", Rounds: 3, Seconds: 2,
			Versions: map[string]string{"b": "v2", "a": "v1"},
		},
		Groups: []Group{{"direct", []string{"ginnel", "tailscaled"}}},
		Figures: Figures{
			"ginnel": {{"down1.mbps": 3000, "trips.p50_us": 100}, {"down1.mbps": 1000},
				{"down1.mbps": 2000, "down64.mbps": 10}},
			"tailscaled": {{"down1.mbps": 1000, "down8.mbps": 700, "trips.p50_us": 200}},
		},
	}
}

// TestTable proves that rows with medians are in the order of measures and numbers, and that
// missing figures are shown as such.
func TestTable(t *testing.T) {
	r := sample()
	const want = `median of 3 rounds           ginnel  tailscaled
down, 1 at a time, Mbit/s      2000        1000
down, 8 at a time, Mbit/s         -         700
down, 64 at a time, Mbit/s     10.0           -
64-byte round trip, p50, us     100         200
`
	if got := r.table(r.Groups[0]).text(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	const page = `| median of 3 rounds | ginnel | tailscaled |
|---|---:|---:|
| down, 1 at a time, Mbit/s | 2000 | 1000 |
`
	if got := r.table(r.Groups[0]).markdown(); !strings.HasPrefix(got, page) {
		t.Errorf("got\n%s", got)
	}
}

// TestVerdicts proves that a ratio is compared with its bar in the right sense, and that bars
// without figures are omitted.
func TestVerdicts(t *testing.T) {
	verdicts := make(map[string]string)
	for _, line := range sample().verdicts()[1:] {
		verdicts[line[0]] = line[5] + " " + line[6]
	}
	if got := verdicts["direct, 1 down"]; got != "2.00 met" {
		t.Errorf("twice as much, with a bar of 2 and an aim of 2.5: got %q", got)
	}
	if got := verdicts["64-byte round trip, p50"]; got != "0.50 aim" {
		t.Errorf("half as long, with an aim of 0.5: got %q", got)
	}
	if len(verdicts) != 2 {
		t.Errorf("got %v, want two", verdicts)
	}
	r := sample()
	r.Figures["tailscaled"][0]["down1.mbps"] = 1001
	if got := r.verdicts()[1][6]; got != "missed" {
		t.Errorf("a little less than twice as much: got %q", got)
	}
}

// TestText proves that the figures of a smoke test are not compared with the bars.
func TestText(t *testing.T) {
	r := sample()
	if got := r.Text(); !strings.Contains(got, "bars\n") {
		t.Errorf("got\n%s", got)
	}
	r.Smoke = true
	if got := r.Text(); strings.Contains(got, "bars\n") || !strings.Contains(got, "2000") {
		t.Errorf("a smoke test: got\n%s", got)
	}
}

// TestNamesExist proves that bars and panels name existing contenders. Renamed ones would otherwise
// disappear from the report.
func TestNamesExist(t *testing.T) {
	var known []string
	for _, c := range peer.WithBefore(peer.Contenders(), "old") {
		known = append(known, c.Name)
	}
	var used []string
	for _, b := range bars {
		used = append(used, b.ours)
		if b.theirs != "" {
			used = append(used, b.theirs)
		}
	}
	for _, p := range panels {
		used = append(used, p.of...)
	}
	for _, name := range used {
		if !slices.Contains(known, name) {
			t.Errorf("no contender %q", name)
		}
	}
	names := make(map[string]bool)
	for _, b := range bars {
		names[b.figure] = true
	}
	if got := rows(names); len(got) != len(names) {
		t.Errorf("%d figures have a bar, and %d of them are in the tables", len(names), len(got))
	}
}

// TestChart proves that the chart is valid XML, and that the lengths of its bars are in proportion
// to the figures.
func TestChart(t *testing.T) {
	chart := sample().Chart()
	var widths []float64
	d := xml.NewDecoder(bytes.NewReader(chart))
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, chart)
		}
		e, ok := token.(xml.StartElement)
		if !ok || e.Name.Local != "rect" {
			continue
		}
		for _, a := range e.Attr {
			if w, err := strconv.ParseFloat(a.Value, 64); a.Name.Local == "width" && err == nil {
				widths = append(widths, w)
			}
		}
	}
	if len(widths) < 2 || math.Abs(widths[0]-2*widths[1]) > 0.2 {
		t.Errorf("bars of 2000 and 1000 have the lengths %v", widths)
	}
	if !bytes.Contains(chart, []byte(">2000</text>")) {
		t.Errorf("the figure is not on the chart:\n%s", chart)
	}
}

// TestPage proves that the page has all tables and says what was measured, when and with which
// versions.
func TestPage(t *testing.T) {
	if page := (&Page{Switch: sample(), SwitchChart: "chart"}).Text(); strings.Contains(page, "failed") {
		t.Errorf("the page reports a failure although none happened:\n%s", page)
	}
	r := sample()
	r.Failures = []string{"round 2: ginnel"}
	page := (&Page{Switch: r, SwitchChart: "docs/chart.svg"}).Text()
	for _, want := range []string{"](docs/chart.svg)", "## Direct", "## Bars", "| a | v1 |\n| b | v2 |", "2026-01-02",
		"abc", "3 rounds", "- round 2: ginnel\n", "| 2000 | 1000 |"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not in\n%s", want, page)
		}
	}
}
