package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Page is BENCHMARKS.md. Parts that are nil are omitted. The charts are paths relative to the page.
type Page struct {
	Switch      *Results
	SwitchChart string
	Paths       *Paths
	PathsChart  string
}

// Text returns the page as Markdown.
func (p *Page) Text() string {
	var b strings.Builder
	b.WriteString(
		"# Benchmarks\n\nWritten by `make bench-peers PEERS=-write` and `make bench-paths PATHS=-write`, not by hand.\n")
	if p.Switch != nil {
		p.Switch.page(&b, p.SwitchChart)
	}
	if p.Paths != nil {
		p.Paths.page(&b, p.PathsChart)
	}
	return b.String()
}

// page writes the part about the switch.
func (r *Results) page(b *strings.Builder, chart string) {
	fmt.Fprintf(b, "\n## On a switch, without delay\n\n![chart](%s)\n\n%s\n%s", chart, r.origin(), method)
	for _, g := range r.Groups {
		fmt.Fprintf(b, "\n### %s\n\n%s", strings.ToUpper(g.Name[:1])+g.Name[1:], r.table(g).markdown())
	}
	r.failed(b)
	b.WriteString(
		"\n### Bars of the switch\n\nValues are ratios of medians, except where there is nothing to compare with.\n\n" +
			r.verdicts().markdown())
}

// page writes the part about paths.
func (p *Paths) page(b *strings.Builder, chart string) {
	fmt.Fprintf(b, "\n## On long, narrow and lossy paths\n\n![chart](%s)\n\n%s\n", chart, p.origin())
	fmt.Fprintf(b, "The comparison took %s.\n\n%s\n%s", p.Took, pathMethod, p.about().markdown())
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

// origin describes the run.
func (r *Run) origin() string {
	var b strings.Builder
	fmt.Fprintf(&b,
		"Measured on %s, at commit %s, on %s. %s of every contender in turn, %v s a measurement; tables show medians.\n\n",
		r.Date, r.Commit, r.Machine, plural(r.Rounds, "round"), r.Seconds)
	b.WriteString("| program | version |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		fmt.Fprintf(&b, "| %s | %s |\n", name, r.Versions[name])
	}
	return b.String()
}

// failed lists failed measurements.
func (r *Run) failed(b *strings.Builder) {
	if len(r.Failures) > 0 {
		b.WriteString("\nSome measurements failed, and are not in the tables:\n\n")
	}
	for _, f := range r.Failures {
		b.WriteString("- " + f + "\n")
	}
}

// method describes the measurements on the switch.
const method = `All programs run on one machine: both nodes, the servers, the client and the service. Each host is a
network namespace of its own, on one switch with an MTU of 1500. Figures differ from machine to
machine, so compare ratios within one run. The contenders take turns, and each starts anew in each
round, with new keys. Nodes run with their default settings. The client speaks SOCKS5, or HTTP
CONNECT if a line says so, and compares every byte; only bytes that have arrived count. All nodes of
a mesh join the same coordination server.

In the relayed group the switch lets the hosts of the nodes reach the relay, but not each other.
Relays on their own are driven by one DERP client program, in pairs with at most 32 packets in
flight, which is the length of derper's queue; "and core" means per second of the server's processor
time. "kernel" is TCP without proxy or tunnel. Memory is VmRSS of the larger node; processor time is
that of both nodes. A connection that is dialed together with others counts as served if its first
64 bytes have been answered within 30 s. A wake-up is a voluntary context switch of a thread.
`

// pathMethod describes the measurements on paths.
const pathMethod = `The far node and the service are behind an emulated path. The near node, the relay and the
coordination server are on the switch in front of it, so direct and relayed traffic cross the path
once. The path (internal/netem) carries packets as they are on a wire, without segmentation offload.
Each direction delays packets by half of the round-trip time and has a bottleneck with a queue. The
queue drops what does not fit; it holds one bandwidth-delay product unless the path says otherwise,
and at least 128 kB. "Down" is from the service to the client. Nodes reach each other directly,
except if a relay is named after the slash.

kernel-cubic and kernel-bbr are TCP connections of the kernel over the same path. TCP buffers may
grow to 64 MB on all hosts; UDP buffers of nodes are bounded by the machine's net.core.rmem_max.
kernel-forwarded is CUBIC through a TCP forwarder on the host of the relay. Bulk is measured after a
warm-up of 3 s or 30 round trips, whichever is longer. A transfer of the first 10 MiB is timed from
the dial, and ends after 15 s (">"). The exchanges of 64 bytes use four connections beside the bulk
connection whose throughput is in the first table. The share of a kernel connection is its part of
what both carry, so 50 is fair. The drops of the bottleneck's queue include those of the warm-up.
Memory is the largest VmRSS of the larger node during the transfer.
`

// pathBarsMeaning explains the table of bars.
const pathBarsMeaning = `Values are ratios, except those in MB. A bar is compared with the worst path and direction, which
the last column names; the exception is the median.
`
