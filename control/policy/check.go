package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Check runs the tests of the policy file on the nodes. Its error is a Problems with the tests that
// fail.
//
// A user or tag that has no node yet is tested as if it had two, and an address that no node has or
// routes to as if one did: a policy can be right before the first node comes.
func (p *Policy) Check(nodes []Node) error {
	if p == nil || len(p.tests) == 0 {
		return nil
	}
	c := p.newCast(nodes)
	var failed Problems
	for _, t := range p.tests {
		for _, probe := range t.accept {
			if why, reached := c.try(t, probe, everyPair); !reached {
				failed = append(failed, probe.failure("%q must reach %q and does not%s", t.name, probe.string, why))
			}
		}
		for _, probe := range t.deny {
			if why, reached := c.try(t, probe, anyPair); reached {
				failed = append(failed, probe.failure("%q must not reach %q and does%s", t.name, probe.string, why))
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

// quantity says how many pairs of a source and a destination have to reach for the whole to.
type quantity int

const (
	everyPair quantity = iota
	anyPair
)

// cast are the nodes that tests are played with: the real ones, and after them stand-ins.
type cast struct {
	*Compiled
	real int // how many are real
}

// newCast compiles the policy for the nodes and a stand-in of everybody whom tests are about.
func (p *Policy) newCast(nodes []Node) *cast {
	all := append(make([]Node, 0, len(nodes)), nodes...)
	used := make(map[netip.Addr]bool)
	for _, n := range nodes {
		for _, a := range n.Addrs {
			used[a] = true
		}
	}
	// Their addresses are the last of the network's ranges, for rules about those ranges to hold.
	next4, next6 := netip.MustParseAddr("100.127.255.255"), netip.MustParseAddr("fd7a:115c:a1e0:ffff:ffff:ffff:ffff:ffff")
	free := func(next *netip.Addr) netip.Addr {
		for *next = next.Prev(); used[*next]; *next = next.Prev() {
		}
		return *next
	}
	there := make(map[string]bool)
	add := func(name string, n Node, count int) {
		for range count {
			if there[name] {
				return
			}
			n.ID = -1 - int64(len(all))
			if n.Routes == nil {
				n.Addrs = []netip.Addr{free(&next4), free(&next6)}
			}
			all = append(all, n)
		}
		there[name] = true
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
	return &cast{p.Compile(all), len(nodes)}
}

// tested are all whom tests are about.
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

// end is one end of a flow: a member, or as a source only an address.
type end struct {
	member int // -1: none
	addrs  []netip.Addr
}

// try plays one probe. It also says which real nodes decided.
func (c *cast) try(t test, p probe, q quantity) (why string, reached bool) {
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

// ends are the members from first to last that are meant.
func (c *cast) ends(who selector, first, last int) []end {
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

// pair reports whether one end reaches the other in one family at least.
func (c *cast) pair(protos []int, from, to end, port uint16) bool {
	for _, src := range from.addrs {
		for _, dst := range to.addrs {
			if src.BitLen() == dst.BitLen() && c.reaches(protos, src, to.member, dst, port) {
				return true
			}
		}
	}
	return false
}

func (c *cast) explain(from, to end) string {
	if max(from.member, to.member) >= c.real || len(from.addrs) == 0 || len(to.addrs) == 0 {
		return ""
	}
	return fmt.Sprintf(" (from %v to %v)", from.addrs[0], to.addrs[0])
}
