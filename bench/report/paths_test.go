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
	"ginnel/bench/trial"
)

// samplePaths returns figures of two paths, with one contender that was measured on only one of
// them.
func samplePaths() *Paths {
	figures := func(down, up, seconds, mb float64) []map[string]float64 {
		return []map[string]float64{{"down1.mbps": down, "up1.mbps": up, "first-down.s": seconds, "first-down.mb": mb}}
	}
	return &Paths{
		Run: Run{Date: "2026-01-02", Commit: "abc", Machine: "one", Rounds: 1, Seconds: 6,
			Versions: map[string]string{"derper": "v3"}},
		Took: "1h",
		Paths: []Path{
			{
				Name: "rtt66", About: "66 ms", RTT: 66, Mbps: 300, Clean: true,
				Contenders: []string{"kernel-cubic", "ginnel", "tailscaled"},
				Figures: Figures{"kernel-cubic": figures(280, 290, 1, firstMB), "ginnel": figures(240, 290, 1.5, firstMB),
					"tailscaled": figures(160, 145, 15, 3)},
			},
			{
				Name: "rtt66-loss0.1", About: "66 ms, 0.1 % lost", RTT: 66, Mbps: 300,
				Contenders: []string{"kernel-cubic", "kernel-bbr", "ginnel"},
				Figures: Figures{"kernel-cubic": figures(10, 8, 15, 9), "kernel-bbr": figures(280, 270, 1, firstMB),
					"ginnel": figures(140, 108, 2, firstMB)},
			},
		},
	}
}

// TestPathTable proves that a table has a line for each path and a column for each contender, with
// both directions in a cell, and marks for unfinished transfers and missing figures.
func TestPathTable(t *testing.T) {
	p := samplePaths()
	const want = `path           kernel-cubic  kernel-bbr     ginnel  tailscaled
rtt66             280 / 290           -  240 / 290   160 / 145
rtt66-loss0.1   10.0 / 8.00   280 / 270  140 / 108           -
`
	if got := p.table(pathTables[0]).text(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := p.table(pathTable{"", []string{"first-down.s"}}).text(); !strings.Contains(got, "> 15.0") ||
		strings.Contains(got, "> 1.5") {
		t.Errorf("got\n%s", got)
	}
	if got := p.table(pathTable{"", []string{"down8.mbps"}}); len(got) != 1 || len(got[0]) != 1 {
		t.Errorf("figure that was not measured: got %v", got)
	}
}

// TestRelayMark proves that figures are marked if nodes that should use a direct path did not at
// the end.
func TestRelayMark(t *testing.T) {
	p := samplePaths()
	f := p.Paths[0].Figures
	f["ginnel"][0]["path.direct"] = 0
	f["tailscaled"][0]["path.direct"] = 1
	text := p.Text()
	if !strings.Contains(text, "240 / 290 (r)") || strings.Contains(text, "145 (r)") ||
		!strings.Contains(text, "\n(r): ") {
		t.Errorf("got\n%s", text)
	}
	f["ginnel/derper"] = []map[string]float64{{"down1.mbps": 50, "up1.mbps": 60, "path.direct": 0}}
	p.Paths[0].Contenders = append(p.Paths[0].Contenders, "ginnel/derper")
	if text := p.Text(); strings.Contains(text, "60.0 (r)") {
		t.Errorf("nodes that have only a relay are marked:\n%s", text)
	}
}

// TestPathVerdicts proves that a bar is compared with the worst value of its paths, or with their
// median if the bar says so.
func TestPathVerdicts(t *testing.T) {
	got := make(map[string]string)
	for _, line := range samplePaths().verdicts()[1:] {
		got[line[0]+" of "+line[2]] = strings.Join(line[3:], ", ")
	}
	want := map[string]string{
		"1 connection, clean, up to 150 ms and 300 Mbit/s of kernel-cubic": ">= 0.85, >= 0.95, 0.86, met, rtt66 down1.mbps",
		"1 connection, 66 ms, 0.1 % lost of kernel-cubic":                  ">= 1, >= 1, 13.5, aim, rtt66-loss0.1 up1.mbps",
		"1 connection, 66 ms, 0.1 % lost of kernel-bbr":                    "-, >= 0.8, 0.40, -, rtt66-loss0.1 up1.mbps",
		"1 connection, every path of tailscaled":                           ">= 1, >= 3, 1.50, met, rtt66 down1.mbps",
		"1 connection, median of all paths of tailscaled":                  ">= 1.5, >= 3, 1.75, met, 2 figures",
	}
	if len(got) != len(want) {
		t.Errorf("got %d bars, want %d: %v", len(got), len(want), got)
	}
	for title, line := range want {
		if got[title] != line {
			t.Errorf("%s: got %s, want %s", title, got[title], line)
		}
	}
}

// TestWorst proves that the worst value is the highest if low values are good.
func TestWorst(t *testing.T) {
	for _, c := range []struct {
		sense sense
		want  float64
	}{{atLeast, 1}, {atMost, 5}} {
		b := pathBar{sense: c.sense}
		if got := b.outcome([]cell{{3, "a"}, {5, "b"}, {1, "c"}}); got.value != c.want {
			t.Errorf("%v: got %v, want %v", c.sense, got, c.want)
		}
	}
}

// TestPathNamesExist proves that bars and curves name existing contenders and paths. Renamed ones
// would otherwise disappear from the report.
func TestPathNamesExist(t *testing.T) {
	var contenders []string
	for _, c := range peer.PathContenders() {
		contenders = append(contenders, c.Name)
	}
	shown := make(map[string]bool)
	for _, pt := range pathTables {
		for _, f := range pt.figures {
			shown[f] = true
		}
	}
	for _, b := range pathBars {
		if !slices.Contains(contenders, b.ours) || b.theirs != "" && !slices.Contains(contenders, b.theirs) {
			t.Errorf("%s: no contender %q or %q", b.title, b.ours, b.theirs)
		}
		if !slices.ContainsFunc(trial.Paths(), func(p trial.Path) bool {
			return b.on(&Path{Name: p.Name, RTT: p.RTT.Seconds() * 1e3, Mbps: float64(p.Mbps), Clean: p.Loss+p.Reorder == 0})
		}) {
			t.Errorf("%s: no such path", b.title)
		}
		for _, f := range b.figures {
			if !shown[f] {
				t.Errorf("%s: %s is not in any table", b.title, f)
			}
		}
	}
	for _, c := range curves {
		if !slices.Contains(contenders, c.contender) {
			t.Errorf("no contender %q", c.contender)
		}
	}
}

// TestPathChart proves that the chart is valid XML, and that the height of a point is its share of
// the path's rate.
func TestPathChart(t *testing.T) {
	chart := samplePaths().Chart()
	lines := make(map[string][]float64) // heights of points, by colour and dashes
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
		if !ok || e.Name.Local != "polyline" {
			continue
		}
		attrs := make(map[string]string)
		for _, a := range e.Attr {
			attrs[a.Name.Local] = a.Value
		}
		for _, point := range strings.Fields(attrs["points"]) {
			_, y, _ := strings.Cut(point, ",")
			v, err := strconv.ParseFloat(y, 64)
			if err != nil {
				t.Fatal(err)
			}
			key := attrs["stroke"] + attrs["stroke-dasharray"]
			lines[key] = append(lines[key], v)
		}
	}
	ours, theirs := lines[ourColour], lines["#f59e0b"]
	if len(ours) != 2 || len(theirs) != 1 {
		t.Fatalf("got %v", lines)
	}
	if got, want := theirs[0]-ours[0], plotHeight*(240-160)/300.0; math.Abs(got-want) > 0.2 {
		t.Errorf("240 of 300 is %v above 160, want %v", got, want)
	}
}

// TestBothParts proves that the page has both parts, or only the one that is not nil.
func TestBothParts(t *testing.T) {
	p := Page{Switch: sample(), SwitchChart: "docs/a.svg", Paths: samplePaths(), PathsChart: "docs/b.svg"}
	page := p.Text()
	for _, want := range []string{"](docs/a.svg)", "](docs/b.svg)", "### Direct", "| rtt66 | 66 ms |",
		"### 1 connection, down / up, Mbit/s", "### Bars of paths", "| derper | v3 |"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not in\n%s", want, page)
		}
	}
	p.Switch = nil
	if page := p.Text(); strings.Contains(page, "### Direct") || !strings.Contains(page, "### Bars of paths") {
		t.Errorf("without a switch: got\n%s", page)
	}
	p = Page{Switch: sample()}
	if page := p.Text(); strings.Contains(page, "### Bars of paths") {
		t.Errorf("without paths: got\n%s", page)
	}
}

// TestSmokePaths proves that the figures of a smoke test are not compared with the bars.
func TestSmokePaths(t *testing.T) {
	p := samplePaths()
	if !strings.Contains(p.Text(), "\nbars\n") {
		t.Errorf("got\n%s", p.Text())
	}
	p.Smoke = true
	if strings.Contains(p.Text(), "\nbars\n") {
		t.Errorf("got\n%s", p.Text())
	}
}
