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
	var b strings.Builder
	b.WriteString("# Benchmarks\n\nWritten by `make bench-peers PEERS=-write` and `make bench-paths PATHS=-write`, not by hand.\n")
	if p.Switch != nil {
		p.Switch.page(&b, p.SwitchChart)
	}
	if p.Paths != nil {
		p.Paths.page(&b, p.PathsChart)
	}
	return b.String()
}

// page writes the part of the switch.
func (r *Results) page(b *strings.Builder, chart string) {
	fmt.Fprintf(b, "\n## On a switch, without delay\n\n![chart](%s)\n\n%s\n%s", chart, r.origin(), method)
	for _, g := range r.Groups {
		fmt.Fprintf(b, "\n### %s\n\n%s", strings.ToUpper(g.Name[:1])+g.Name[1:], r.table(g).markdown())
	}
	r.failed(b)
	b.WriteString("\n### Bars of the switch\n\nA ratio, unless it says MB or kB. What is missed is missed.\n\n" + r.verdicts().markdown())
}

// page writes the part of paths.
func (p *Paths) page(b *strings.Builder, chart string) {
	fmt.Fprintf(b, "\n## On long, narrow and lossy paths\n\n![chart](%s)\n\n%s\n%s\n%s", chart, p.origin(), pathMethod, p.about().markdown())
	marked := b.Len()
	for _, pt := range pathTables {
		if t := p.table(pt); len(t) > 1 {
			fmt.Fprintf(b, "\n### %s\n\n%s", strings.ToUpper(pt.title[:1])+pt.title[1:], t.markdown())
		}
	}
	if strings.Contains(b.String()[marked:], relayMark) {
		b.WriteString("\n(r): at the end the nodes used the relay, although a direct path was there.\n")
	}
	p.failed(b)
	fmt.Fprintf(b, "\n### Bars of paths\n\n%s\n%s", pathBarsMeaning, p.verdicts().markdown())
}

// origin says when, where and with what a run was made.
func (r *Run) origin() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s, at commit %s, on %s. %s of every contender in turn, %v s a measurement; tables show medians.\n\n",
		r.Date, r.Commit, r.Machine, plural(r.Rounds, "round"), r.Seconds)
	b.WriteString("| program | version |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		fmt.Fprintf(&b, "| %s | %s |\n", name, r.Versions[name])
	}
	return b.String()
}

// failed lists what failed.
func (r *Run) failed(b *strings.Builder) {
	if len(r.Failures) > 0 {
		b.WriteString("\nSome measurements failed, and are not in the tables:\n\n")
	}
	for _, f := range r.Failures {
		b.WriteString("- " + f + "\n")
	}
}

// method tells what the figures are, for those who want to know what they are worth.
const method = `Both ends, the servers and the load are on one machine, each in a network namespace of its own, on one switch with an MTU of
1500: figures move from machine to machine, and what counts are the ratios of one run. Every contender starts anew in each
round, with new keys, and they take turns. Nodes run as they come, with no setting changed. The load speaks SOCKS5, or CONNECT
where it says so, and compares every byte; only what has arrived counts. Both contenders with a mesh join the same
coordination server. Relayed means that the switch lets the machines of the nodes reach the relay but not each other. Relays
on their own are driven by the same DERP client, in pairs with at most 32 packets on their way, which is what derper queues;
"and core" is per second of the server's processor time. "kernel" is TCP without a proxy or tunnel: the most there is. Memory
is VmRSS, the larger of both nodes; processor time is that of both. Of connections that are dialled at once, one is served when
an answer to its first message has come within 30 s. A wake-up is a voluntary context switch of a thread.
`

// pathMethod does the same for paths.
const pathMethod = `The machine of the far node and the service is behind an emulated path; the near node, the relay and the coordination server
are on the switch before it, so direct and relayed traffic cross the path once. The path (internal/netem) carries packets as they
are on a wire, without segmentation offload. Each direction has half of the round trip time as delay, and a bottleneck whose queue
drops what exceeds it; the length of the queue is one bandwidth-delay product, where the name does not say otherwise, and at least
128 kB. "Down" is from the service to the client. Nodes are direct, except for those with a relay after the slash.

kernel-cubic and kernel-bbr are plain TCP connections of the kernel over the same path, with buffers of up to 64 MB;
kernel-forwarded is CUBIC through a plain TCP forwarder in the place of the relay. Bulk is measured after slow start, which is 3 s
or 30 round trips, whichever is longer. A transfer of the first 10 MiB begins with the connection and stops after 15 s (">"). Four
connections exchange 64 bytes beside one connection of bulk, which is the same that the throughput is of. Shares of a kernel
connection are of both together: 50 is fair. Memory is the most that was resident in the larger node.
`

// pathBarsMeaning says how to read the bars of paths.
const pathBarsMeaning = `A ratio, unless it says MB, of the worst path and direction, which are in the last column, unless it says median. What is missed
is missed.
`
