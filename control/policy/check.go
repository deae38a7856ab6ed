package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Report is the result of a Check without errors.
type Report struct {
	Warnings  []Problem // see Policy.Warnings
	Explained []Problem // see Policy.Explain
}

// Check parses a policy file and runs its tests on the nodes, which may be none. Its error is a
// Problems: the mistakes in the file, or the tests that fail.
func Check(src []byte, nodes []Node) (Report, error) {
	p, err := Parse(src)
	if err != nil {
		return Report{}, err
	}
	if err := p.Check(nodes); err != nil {
		return Report{}, err
	}
	return Report{Warnings: p.Warnings(), Explained: p.Explain(nodes)}, nil
}

// Check runs the tests of the policy file on the nodes. Its error is a Problems with the tests that
// fail.
//
// So that a policy can be tested before the first node joins, a source or destination without nodes
// is tested with stand-ins: two nodes for a user or tag, and one router for an address that no node
// has or routes to.
func (p *Policy) Check(nodes []Node) error {
	if p == nil || len(p.tests) == 0 {
		return nil
	}
	c := p.withStandIns(nodes)
	var failed Problems
	for _, t := range p.tests {
		for _, probe := range t.accept {
			if why, reached := c.run(t, probe, everyPair); !reached {
				failed = append(failed, probe.failure("%q must reach %q, but does not%s", t.name, probe.string, why))
			}
		}
		for _, probe := range t.deny {
			if why, reached := c.run(t, probe, anyPair); reached {
				failed = append(failed, probe.failure("%q must not reach %q, but does%s", t.name, probe.string, why))
			}
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return failed
}

func (p probe) failure(format string, args ...any) Problem {
	return Problem{p.line, p.column, "test: " + fmt.Sprintf(format, args...)}
}

// quantity says how many pairs of a source node and a destination node must reach each other for a
// probe to reach.
type quantity int

const (
	everyPair quantity = iota
	anyPair
)

// testNodes is the policy compiled for the real nodes and, after them, the stand-ins.
type testNodes struct {
	*Compiled
	real int // how many are real
}

// withStandIns compiles the policy for the nodes and for stand-ins of everything that tests name.
func (p *Policy) withStandIns(nodes []Node) *testNodes {
	all := append(make([]Node, 0, len(nodes)), nodes...)
	used := make(map[netip.Addr]bool)
	for _, n := range nodes {
		for _, a := range n.Addrs {
			used[a] = true
		}
	}
	// Stand-ins get the last addresses of the mesh ranges, so that rules about those ranges apply.
	next4, next6 := meshRanges[0].last, meshRanges[1].last
	free := func(next *netip.Addr) netip.Addr {
		for *next = next.Prev(); used[*next]; *next = next.Prev() {
		}
		return *next
	}
	added := make(map[string]bool)
	add := func(name string, n Node, count int) {
		if added[name] {
			return
		}
		added[name] = true
		for range count {
			n.ID = -1 - int64(len(all))
			if n.Routes == nil {
				n.Addrs = []netip.Addr{free(&next4), free(&next6)}
			}
			all = append(all, n)
		}
	}
	for _, s := range p.tested() {
		switch s.kind {
		case user:
			add(s.name, Node{User: s.name}, 2)
		case group:
			for _, name := range s.users {
				add(name, Node{User: name}, 2)
			}
		case tag:
			add(s.name, Node{Tags: []string{s.name}}, 2)
		case addresses:
			a := s.span.first
			route := netip.PrefixFrom(a, a.BitLen())
			add(route.String(), Node{Routes: []netip.Prefix{route}, ExitNode: within(internet, a)}, 1)
		}
	}
	return &testNodes{p.Compile(all), len(nodes)}
}

// tested returns the sources and destinations of all tests.
func (p *Policy) tested() []selector {
	var all []selector
	for _, t := range p.tests {
		all = append(all, t.src)
		for _, probe := range slices.Concat(t.accept, t.deny) {
			all = append(all, probe.who)
		}
	}
	return all
}

// end is one end of a flow: a member with some of its addresses, or a source address that is no
// member's.
type end struct {
	member int // -1: none
	addrs  []netip.Addr
}

// run runs one probe and reports whether it reached. why names the pair of real nodes that decided.
func (c *testNodes) run(t test, p probe, q quantity) (why string, reached bool) {
	sources, destinations := c.ends(t.src, 0, c.real), c.ends(p.who, 0, c.real)
	if t.src.kind == addresses {
		sources = []end{{-1, []netip.Addr{t.src.span.first}}}
	}
	if len(sources) == 0 || len(sources) == 1 && len(destinations) == 1 && sources[0].member == destinations[0].member {
		sources = c.ends(t.src, c.real, len(c.members))
	}
	if len(destinations) == 0 {
		destinations = c.ends(p.who, c.real, len(c.members))
	}
	played := false
	for _, s := range sources {
		for _, d := range destinations {
			if s.member == d.member {
				continue
			}
			played = true
			if c.pair(t.protos, s, d, p.port) == (q == anyPair) {
				return c.explain(s, d), q == anyPair
			}
		}
	}
	return "", played && q == everyPair
}

// ends returns the members in [first, last) that a selector selects.
func (c *testNodes) ends(who selector, first, last int) []end {
	var ends []end
	for i, m := range c.members[first:last] {
		if who.kind == addresses {
			if len(who.at(m)) > 0 {
				ends = append(ends, end{first + i, []netip.Addr{who.span.first}})
			}
		} else if who.names(m) {
			e := end{member: first + i}
			for _, a := range m.addrs {
				e.addrs = append(e.addrs, a.first)
			}
			ends = append(ends, e)
		}
	}
	return ends
}

// pair reports whether one end reaches the other in at least one address family.
func (c *testNodes) pair(protos []int, from, to end, port uint16) bool {
	for _, src := range from.addrs {
		for _, dst := range to.addrs {
			if src.BitLen() == dst.BitLen() && c.reaches(protos, src, to.member, dst, port) {
				return true
			}
		}
	}
	return false
}

func (c *testNodes) explain(from, to end) string {
	if max(from.member, to.member) >= c.real || len(from.addrs) == 0 || len(to.addrs) == 0 {
		return ""
	}
	return fmt.Sprintf(" (from %v to %v)", from.addrs[0], to.addrs[0])
}
