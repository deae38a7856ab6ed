package trial

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ginnel/bench/load"
	"ginnel/bench/netlab"
	"ginnel/bench/peer"
	"ginnel/internal/netem"
)

// path is one by its name.
func path(t *testing.T, name string) Path {
	t.Helper()
	all := Paths()
	i := slices.IndexFunc(all, func(p Path) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("there is no path %s", name)
	}
	return all[i]
}

// TestPaths proves that each has a name of its own, and that what the emulator is told is what it
// understands.
func TestPaths(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range append(Paths(), SmokePath()) {
		if seen[p.Name] || p.Name == "" || p.RTT <= 0 || p.Mbps <= 0 {
			t.Errorf("%+v is there twice, or lacks something", p)
		}
		seen[p.Name] = true
		way := p.emulated().Forward
		if again, err := netem.Parse(way.String()); err != nil || again != way {
			t.Errorf("%s: %v is read as %v, %v", p.Name, way, again, err)
		}
		if p.emulated().Back != way || 2*way.Delay != p.RTT {
			t.Errorf("%s: its directions are %v and %v", p.Name, way, p.emulated().Back)
		}
	}
}

// TestQueue proves that a queue is as many bandwidth-delay products as it is to be, and not too
// short to measure anything else.
func TestQueue(t *testing.T) {
	for _, c := range []struct {
		path Path
		want int
	}{
		{Path{RTT: 66 * time.Millisecond, Mbps: 300}, 2_475_000},
		{Path{RTT: 66 * time.Millisecond, Mbps: 300, Queue: 0.25}, 618_750},
		{Path{RTT: time.Millisecond, Mbps: 500}, leastQueue},
	} {
		if got := c.path.queue(); got != c.want {
			t.Errorf("%v: got %d, want %d", c.path, got, c.want)
		}
	}
}

// TestAbout proves that a path is described with all that makes it one.
func TestAbout(t *testing.T) {
	p := Path{RTT: 66 * time.Millisecond, Mbps: 300, Queue: 0.25, Loss: 0.001, Reorder: 0.01, Late: 66 * time.Millisecond / 4}
	const want = "66 ms, 300 Mbit/s, queue of 618 kB, 0.1 % lost each way, 1 % of packets 16.5 ms late"
	if got := p.About(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// names are those of the steps.
func names(steps []step) string {
	var all []string
	for _, s := range steps {
		all = append(all, s.name)
	}
	return strings.Join(all, " ")
}

// TestPathSteps proves what is measured on main paths and on others, and that what is wanted is
// measured on each.
func TestPathSteps(t *testing.T) {
	const brief = "first-down first-up fetch100k fetch1m down1 up1"
	socks := load.Proxy{Kind: load.SOCKS5, Addr: "a"}
	p, rival := FullPathPlan(6), new(load.Rival)
	if got := names(p.steps(path(t, "rtt20-fast"), socks, rival)); got != brief {
		t.Errorf("got %s, want %s", got, brief)
	}
	if got := names(p.steps(path(t, "rtt66"), socks, nil)); got != brief+" down8 up8 pair" {
		t.Errorf("on a main path: got %s", got)
	}
	if got := names(p.steps(path(t, "rtt66"), socks, rival)); !strings.HasSuffix(got, " pair rival") {
		t.Errorf("beside a rival: got %s", got)
	}
	p.All = true
	if got := names(p.steps(path(t, "rtt20-fast"), socks, nil)); got != brief+" down8 up8 pair" {
		t.Errorf("everything: got %s", got)
	}
	p.Steps = regexp.MustCompile("^(up8|fetch1m)$")
	if got := names(p.steps(path(t, "rtt20-fast"), socks, nil)); got != "fetch1m up8" {
		t.Errorf("what is wanted: got %s", got)
	}
}

// TestPathSpecs proves that steps have a length and their proxy, and that bulk is warmed up for
// longer where round trips take longer.
func TestPathSpecs(t *testing.T) {
	socks := load.Proxy{Kind: load.SOCKS5, Addr: "a"}
	for name, warmup := range map[string]time.Duration{"rtt20": 3 * time.Second, "rtt150": 4500 * time.Millisecond} {
		p := FullPathPlan(6)
		for _, s := range p.steps(path(t, name), socks, new(load.Rival)) {
			if s.spec.Proxy != socks || s.spec.Duration <= 0 {
				t.Errorf("%s: %+v", s.name, s.spec)
			}
			if s.spec.Kind == load.Bulk && s.spec.Warmup != warmup {
				t.Errorf("%s on %s: warmed up for %v, want %v", s.name, name, s.spec.Warmup, warmup)
			}
		}
	}
}

// TestDrops proves that what is counted is what the path dropped of the data, not of what
// acknowledges it.
func TestDrops(t *testing.T) {
	c := netlab.Counters{Forward: netem.Stats{Packets: 1000, QueueFull: 20, Lost: 5}, Back: netem.Stats{Packets: 500, QueueFull: 50}}
	for d, want := range map[load.Direction][2]float64{load.Up: {2, 0.5}, load.Down: {10, 0}} {
		f := make(load.Figures)
		if drops(f, d, c); f["dropped_percent"] != want[0] || f["lost_percent"] != want[1] {
			t.Errorf("%s: got %v, want %v", d, f, want)
		}
	}
	f := make(load.Figures)
	if drops(f, load.Up, netlab.Counters{}); len(f) != 0 {
		t.Errorf("of no packets: got %v", f)
	}
}

// TestRival proves who has a kernel connection beside it: nodes that reach each other directly and
// the kernel's BBR.
func TestRival(t *testing.T) {
	var got []string
	for _, c := range peer.PathContenders() {
		r := run{trial: &peer.Trial{Contender: c, Service: new(netlab.Host)}}
		if rival := r.rival(); rival != nil {
			got = append(got, c.Name)
			if rival.Proxy.Kind != load.Direct || rival.Proxy.Congestion != load.CUBIC {
				t.Errorf("beside %s: %+v", c.Name, rival)
			}
		}
	}
	if want := "kernel-bbr ginnel tailscaled ginnel-wireguard wireproxy"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
