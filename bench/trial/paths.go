package trial

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"ginnel/bench/netlab"
	"ginnel/internal/netem"
)

// Path is an emulated path on which contenders are compared. Both directions have the same
// properties.
type Path struct {
	Name    string
	RTT     time.Duration
	Mbps    int           // of the bottleneck
	Queue   float64       // of the bottleneck, in bandwidth-delay products; 0 is 1
	Loss    float64       // fraction of packets lost at random, each way
	Reorder float64       // fraction of packets delayed by Late, each way
	Late    time.Duration // additional delay of reordered packets
	Main    bool          // measured with every contender and every step
}

// minQueue is the minimum queue of a bottleneck in bytes. A shorter queue drops the bursts of any
// sender, and only that would be measured: with 64 kB at 1 ms and 500 Mbit/s the kernel's CUBIC
// reaches 0.67 of the rate, with 128 kB 0.88.
const minQueue = 128_000

// Paths returns all paths in the order of the tables.
func Paths() []Path {
	const ms = time.Millisecond
	return []Path{
		{Name: "rtt1", RTT: ms, Mbps: 500},
		{Name: "rtt20", RTT: 20 * ms, Mbps: 100},
		{Name: "rtt20-fast", RTT: 20 * ms, Mbps: 500},
		{Name: "rtt20-late5", RTT: 20 * ms, Mbps: 300, Reorder: 0.05, Late: 4 * ms},
		{Name: "rtt66", RTT: 66 * ms, Mbps: 300, Main: true},
		{Name: "rtt66-slow", RTT: 66 * ms, Mbps: 100},
		{Name: "rtt66-shallow", RTT: 66 * ms, Mbps: 300, Queue: 0.25},
		{Name: "rtt66-loss0.1", RTT: 66 * ms, Mbps: 300, Loss: 0.001, Main: true},
		{Name: "rtt66-loss1", RTT: 66 * ms, Mbps: 300, Loss: 0.01},
		{Name: "rtt66-late1", RTT: 66 * ms, Mbps: 300, Reorder: 0.01, Late: 66 * ms / 4},
		{Name: "rtt150", RTT: 150 * ms, Mbps: 300},
		{Name: "rtt200-loss2", RTT: 200 * ms, Mbps: 100, Loss: 0.02},
		{Name: "rtt300", RTT: 300 * ms, Mbps: 20},
	}
}

// SmokePath is the path of a smoke test.
func SmokePath() Path {
	return Path{Name: "smoke", RTT: 10 * time.Millisecond, Mbps: 50, Loss: 0.001, Reorder: 0.001, Late: time.Millisecond,
		Main: true}
}

// queue returns the length of the bottleneck's queue in bytes.
func (p *Path) queue() int {
	products := p.Queue
	if products == 0 {
		products = 1
	}
	return max(minQueue, int(products*float64(p.Mbps)*1e6/8*p.RTT.Seconds()))
}

// emulated returns the path in the form that the lab takes.
func (p *Path) emulated() netlab.Path {
	way := netem.Config{
		Delay: p.RTT / 2, Rate: int64(p.Mbps) * 1e6, Queue: p.queue(), Loss: p.Loss, Reorder: p.Reorder, ReorderDelay: p.Late,
	}
	return netlab.Path{Forward: way, Back: way}
}

// About describes the path.
func (p *Path) About() string {
	parts := []string{
		fmt.Sprintf("%d ms", p.RTT.Milliseconds()), fmt.Sprintf("%d Mbit/s", p.Mbps),
		fmt.Sprintf("queue of %d kB", p.queue()/1000),
	}
	if p.Loss > 0 {
		parts = append(parts, percent(p.Loss)+" lost each way")
	}
	if p.Reorder > 0 {
		parts = append(parts, fmt.Sprintf("%s of packets %s ms late", percent(p.Reorder),
			strconv.FormatFloat(p.Late.Seconds()*1e3, 'g', 3, 64)))
	}
	return strings.Join(parts, ", ")
}

func percent(fraction float64) string { return strconv.FormatFloat(100*fraction, 'g', 3, 64) + " %" }
