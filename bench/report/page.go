package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Page is BENCHMARKS.md. What is nil is left out. Charts are where they are seen from the page.
type Page struct {
	Switch      *Results
	SwitchChart string
	Paths       *Paths
	PathsChart  string
}

// Text writes it.
func (p *Page) Text() string {
	r, chart := p.Switch, p.SwitchChart
	var b strings.Builder
	b.WriteString("# Benchmarks\n\nWritten by `make bench-peers PEERS=-write`, not by hand.\n\n")
	fmt.Fprintf(&b, "![chart](%s)\n\n", chart)
	fmt.Fprintf(&b, "Measured on %s, at commit %s, on %s. %s of every contender in turn, %v s a measurement; tables show medians.\n\n",
		r.Date, r.Commit, r.Machine, plural(r.Rounds, "round"), r.Seconds)
	b.WriteString("| program | version |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		fmt.Fprintf(&b, "| %s | %s |\n", name, r.Versions[name])
	}
	b.WriteString("\n" + method)
	for _, g := range r.Groups {
		fmt.Fprintf(&b, "\n## %s\n\n%s", strings.ToUpper(g.Name[:1])+g.Name[1:], r.table(g).markdown())
	}
	if len(r.Failures) > 0 {
		b.WriteString("\nSome measurements failed, and are not in the tables:\n\n")
	}
	for _, f := range r.Failures {
		b.WriteString("- " + f + "\n")
	}
	b.WriteString("\n## Bars\n\nA ratio, unless it says MB or kB. What is missed is missed.\n\n" + r.verdicts().markdown())
	return b.String()
}

// method tells what the figures are, for those who want to know what they are worth.
const method = `Both ends, the servers and the load are on one machine, each in a network namespace of its own, on one switch with an MTU of
1500: figures move from machine to machine, and what counts are the ratios of one run. Every contender starts anew in each
round, with new keys, and they take turns. Nodes run as they come, with no setting changed. The load speaks SOCKS5, or CONNECT
where it says so, and compares every byte; only what has arrived counts. Both contenders with a mesh join the same
coordination server. Relayed means that the switch lets the machines of the nodes reach the relay but not each other. Relays
on their own are driven by the same DERP client, in pairs with at most 32 packets on their way, which is what derper queues;
"and core" is per second of the server's processor time. "kernel" is TCP without a proxy or tunnel: the most there is. Memory
is VmRSS, the larger of both nodes; processor time is that of both.
`
