package filter

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"ginnel/control"
)

// ruleSet are the rules about passage: a tree over sources of trees over destinations of services.
// It answers like trying one rule after the other does.
type ruleSet struct {
	bySource     [2]*tree[targets]
	byCapability []capabilityRules
}

// capabilityRules are those for sources with one node attribute.
type capabilityRules struct {
	capability string
	targets    [2]*targets
}

// targets are the destinations of some rules, in one family, with the services allowed there.
type targets struct{ byAddr *tree[services] }

// services are the ports allowed by some rules: ranges, in order and without overlap, of numbers
// made of a protocol and a port. Of protocols without ports only those are there that a rule allows
// with all ports.
type services []serviceRange

type serviceRange struct{ first, last uint32 }

func service(proto uint8, port uint16) uint32 { return uint32(proto)<<16 | uint32(port) }

// compiled is what compile makes of the rules of a map.
type compiled struct {
	rules  *ruleSet
	grants []grant
}

// rule is a FilterRule that has been read.
type rule struct {
	src          spanSet
	capabilities []string
	dst          []destination
	protos       []uint8
}

type destination struct {
	spans spanSet
	ports control.PortRange
}

// compile makes the rules ready. It refuses them all if one has the obsolete bits apart from the
// addresses (section 6.1): read without them it would allow something else.
func compile(rules []control.FilterRule) (compiled, error) {
	var c compiled
	read := make([]rule, 0, len(rules))
	for i, r := range rules {
		hasBits := func(d control.NetPortRange) bool { return d.Bits != nil }
		if len(r.SrcBits) > 0 || slices.ContainsFunc(r.DstPorts, hasBits) {
			return compiled{}, fmt.Errorf("reading packet filter: rule %d has bits apart from addresses", i)
		}
		one := readRule(r)
		read = append(read, one)
		for _, g := range r.CapGrant {
			c.grants = append(c.grants, grant{src: one.src, capabilities: one.capabilities, CapGrant: g})
		}
	}
	c.rules = newRuleSet(read)
	return c, nil
}

func readRule(r control.FilterRule) rule {
	var out rule
	for _, src := range r.SrcIPs {
		if capability, ok := strings.CutPrefix(src, "cap:"); ok {
			out.capabilities = append(out.capabilities, capability)
		} else {
			out.src.add(src)
		}
	}
	out.src.merge()
	for _, d := range r.DstPorts {
		var spans spanSet
		spans.add(d.IP)
		if d.Ports.First <= d.Ports.Last {
			out.dst = append(out.dst, destination{spans, d.Ports})
		}
	}
	for _, proto := range r.IPProto {
		if proto >= 0 && proto <= math.MaxUint8 {
			out.protos = append(out.protos, uint8(proto))
		}
	}
	if len(r.IPProto) == 0 {
		out.protos = []uint8{protoTCP, protoUDP, protoICMPv4, protoICMPv6}
	}
	return out
}

func newRuleSet(rules []rule) *ruleSet {
	var s ruleSet
	users := make(map[string][]int) // rules by capability
	for i, r := range rules {
		for _, capability := range r.capabilities {
			users[capability] = append(users[capability], i)
		}
	}
	for _, f := range []family{ipv4, ipv6} {
		sources := make([][]span, len(rules))
		for i, r := range rules {
			if len(r.dst) > 0 {
				sources[i] = r.src[f]
			}
		}
		s.bySource[f] = newTree(sources, func(which []int) *targets { return newTargets(f, rules, which) })
	}
	for capability, which := range users {
		s.byCapability = append(s.byCapability, capabilityRules{
			capability: capability,
			targets:    [2]*targets{newTargets(ipv4, rules, which), newTargets(ipv6, rules, which)},
		})
	}
	return &s
}

func newTargets(f family, rules []rule, which []int) *targets {
	type allowance struct {
		protos []uint8
		ports  control.PortRange
	}
	var sets [][]span
	var allowed []allowance
	for _, i := range which {
		for _, d := range rules[i].dst {
			if len(d.spans[f]) > 0 {
				sets = append(sets, d.spans[f])
				allowed = append(allowed, allowance{rules[i].protos, d.ports})
			}
		}
	}
	if len(sets) == 0 {
		return nil
	}
	return &targets{newTree(sets, func(which []int) *services {
		s := new(services)
		for _, i := range which {
			for _, proto := range allowed[i].protos {
				s.add(proto, allowed[i].ports)
			}
		}
		s.merge()
		return s
	})}
}

func (s *services) add(proto uint8, ports control.PortRange) {
	hasPorts := proto == protoTCP || proto == protoUDP || proto == protoSCTP
	if hasPorts || ports == (control.PortRange{First: 0, Last: math.MaxUint16}) {
		*s = append(*s, serviceRange{service(proto, ports.First), service(proto, ports.Last)})
	}
}

func (s *services) merge() {
	slices.SortFunc(*s, func(a, b serviceRange) int { return int(a.first) - int(b.first) })
	joined := (*s)[:0]
	for _, r := range *s {
		if n := len(joined) - 1; n >= 0 && r.first <= joined[n].last+1 {
			joined[n].last = max(joined[n].last, r.last)
			continue
		}
		joined = append(joined, r)
	}
	*s = slices.Clip(joined)
}

// allow reports whether a rule matches.
func (s *ruleSet) allow(h *headers, hasCapability func(src netip.Addr, capability string) bool) bool {
	t := s.bySource[h.family]
	for i := t.leaf(h.src); i > 0; i /= 2 {
		if t.at[i].allow(h) {
			return true
		}
	}
	for i := range s.byCapability {
		r := &s.byCapability[i]
		if r.targets[h.family].allow(h) && hasCapability(h.family.addr(h.src), r.capability) {
			return true
		}
	}
	return false
}

func (t *targets) allow(h *headers) bool {
	if t == nil {
		return false
	}
	for i := t.byAddr.leaf(h.dst); i > 0; i /= 2 {
		if t.byAddr.at[i].allow(h) {
			return true
		}
	}
	return false
}

// allow reports whether the packet's service is among s. For ICMP any is as good as the other: a
// peer that is allowed something at an address may ping it.
func (s *services) allow(h *headers) bool {
	switch {
	case s == nil:
		return false
	case h.icmp():
		return true
	}
	want := service(h.proto, h.dstPort)
	low, high := 0, len(*s) // the first range that ends at it or behind
	for low < high {
		if mid := (low + high) / 2; (*s)[mid].last < want {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low < len(*s) && (*s)[low].first <= want
}
