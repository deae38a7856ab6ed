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

// path returns the path with this name.
func path(t *testing.T, name string) Path {
	t.Helper()
	all := Paths()
	i := slices.IndexFunc(all, func(p Path) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("no path %s", name)
	}
	return all[i]
}

// TestPaths proves that names are unique, and that the emulator parses the text of each direction.
func TestPaths(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range append(Paths(), SmokePath()) {
		if seen[p.Name] || p.Name == "" || p.RTT <= 0 || p.Mbps <= 0 {
			t.Errorf("%+v has a duplicate name or a missing value", p)
		}
		seen[p.Name] = true
		way := p.emulated().Forward
		if again, err := netem.Parse(way.String()); err != nil || again != way {
			t.Errorf("%s: %v is parsed as %v, %v", p.Name, way, again, err)
		}
		if p.emulated().Back != way || 2*way.Delay != p.RTT {
			t.Errorf("%s: its directions are %v and %v", p.Name, way, p.emulated().Back)
		}
	}
}

// TestQueue proves that a queue holds the wanted number of bandwidth-delay products, but at least
// minQueue.
func TestQueue(t *testing.T) {
	for _, c := range []struct {
		path Path
		want int
	}{
		{Path{RTT: 66 * time.Millisecond, Mbps: 300}, 2_475_000},
		{Path{RTT: 66 * time.Millisecond, Mbps: 300, Queue: 0.25}, 618_750},
		{Path{RTT: time.Millisecond, Mbps: 500}, minQueue},
	} {
		if got := c.path.queue(); got != c.want {
			t.Errorf("%v: got %d, want %d", c.path, got, c.want)
		}
	}
}

// TestAbout proves that all properties of a path are in its description.
func TestAbout(t *testing.T) {
	p := Path{RTT: 66 * time.Millisecond, Mbps: 300, Queue: 0.25, Loss: 0.001, Reorder: 0.01,
		Late: 66 * time.Millisecond / 4}
	const want = "66 ms, 300 Mbit/s, queue of 618 kB, 0.1 % lost each way, 1 % of packets 16.5 ms late"
	if got := p.About(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// names returns the names of steps.
func names(steps []step) string {
	var all []string
	for _, s := range steps {
		all = append(all, s.name)
	}
	return strings.Join(all, " ")
}

// TestPathSteps proves which steps run on main paths and on others, and that Steps overrides that.
func TestPathSteps(t *testing.T) {
	const basic = "first-down first-up fetch100k fetch1m down1 up1"
	socks := load.Proxy{Kind: load.SOCKS5, Addr: "a"}
	p, rival := FullPathPlan(6), new(load.Rival)
	if got := names(p.steps(path(t, "rtt20-fast"), socks, rival)); got != basic {
		t.Errorf("got %s, want %s", got, basic)
	}
	if got := names(p.steps(path(t, "rtt66"), socks, nil)); got != basic+" down8 up8 pair" {
		t.Errorf("on a main path: got %s", got)
	}
	if got := names(p.steps(path(t, "rtt66"), socks, rival)); !strings.HasSuffix(got, " pair rival") {
		t.Errorf("with a rival: got %s", got)
	}
	p.All = true
	if got := names(p.steps(path(t, "rtt20-fast"), socks, nil)); got != basic+" down8 up8 pair" {
		t.Errorf("with All: got %s", got)
	}
	p.Steps = regexp.MustCompile("^(up8|fetch1m)$")
	if got := names(p.steps(path(t, "rtt20-fast"), socks, nil)); got != "fetch1m up8" {
		t.Errorf("with Steps: got %s", got)
	}
}

// TestPathSpecs proves that every step has a duration and the proxy, and that the warm-up of bulk
// is longer on paths with longer round trips.
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

// TestDrops proves that dropped packets are counted in the direction of the data, not in that of
// the acknowledgements.
func TestDrops(t *testing.T) {
	c := netlab.Counters{Forward: netem.Stats{Packets: 1000, QueueFull: 20, Lost: 5},
		Back: netem.Stats{Packets: 500, QueueFull: 50}}
	for d, want := range map[load.Direction][2]float64{load.Up: {2, 0.5}, load.Down: {10, 0}} {
		f := make(load.Figures)
		if drops(f, d, c); f["dropped_percent"] != want[0] || f["lost_percent"] != want[1] {
			t.Errorf("%s: got %v, want %v", d, f, want)
		}
	}
	f := make(load.Figures)
	if drops(f, load.Up, netlab.Counters{}); len(f) != 0 {
		t.Errorf("no packets: got %v", f)
	}
}

// TestRival proves which contenders have a concurrent kernel connection: nodes that reach each
// other directly, and the kernel's BBR.
func TestRival(t *testing.T) {
	var got []string
	for _, c := range peer.PathContenders() {
		r := run{trial: &peer.Trial{Contender: c, Service: new(netlab.Host)}}
		if rival := r.rival(); rival != nil {
			got = append(got, c.Name)
			if rival.Proxy.Kind != load.Direct || rival.Proxy.Congestion != load.CUBIC {
				t.Errorf("rival of %s: %+v", c.Name, rival)
			}
		}
	}
	if want := "kernel-bbr ginnel tailscaled ginnel-wireguard wireproxy"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
