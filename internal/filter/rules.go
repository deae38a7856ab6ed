package filter

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"ginnel/control"
)

// ruleSet is the compiled form of the rules: a tree over sources, whose values are trees over
// destinations, whose values are services. Its answer is that of trying the rules one by one.
type ruleSet struct {
	bySource     [2]*tree[targets] // by family
	byCapability []capabilityRules
}

// capabilityRules are the rules whose source is the peers with one node attribute.
type capabilityRules struct {
	capability string
	targets    [2]*targets // by family
}

// targets maps the destinations of some rules, in one family, to the services allowed there.
type targets struct{ byAddr *tree[services] }

// services are the services that some rules allow: ranges of numbers made of protocol and port,
// sorted and without overlap. A protocol without ports is included only if a rule allows all ports.
type services []serviceRange

type serviceRange struct{ first, last uint32 }

func service(proto uint8, port uint16) uint32 { return uint32(proto)<<16 | uint32(port) }

// rule is a parsed FilterRule.
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

// compile compiles the rules. It refuses all of them if one has the obsolete fields for prefix
// lengths (section 6.1), because without those the rule would allow something else.
func compile(rules []control.FilterRule) (*ruleSet, error) {
	parsed := make([]rule, 0, len(rules))
	for i, r := range rules {
		hasBits := func(d control.NetPortRange) bool { return d.Bits != nil }
		if len(r.SrcBits) > 0 || slices.ContainsFunc(r.DstPorts, hasBits) {
			return nil, fmt.Errorf("filter: compiling rule %d: it has prefix lengths apart from addresses", i)
		}
		parsed = append(parsed, parseRule(r))
	}
	return newRuleSet(parsed), nil
}

func parseRule(r control.FilterRule) rule {
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
	byCapability := make(map[string][]int) // indexes of rules
	for i, r := range rules {
		for _, capability := range r.capabilities {
			byCapability[capability] = append(byCapability[capability], i)
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
	for capability, which := range byCapability {
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

// allow reports whether a rule allows the packet.
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

// allow reports whether the packet's service is in s. ICMP needs only that any service is allowed:
// a peer that may reach something at an address may ping it.
func (s *services) allow(h *headers) bool {
	switch {
	case s == nil:
		return false
	case h.icmp():
		return true
	}
	want := service(h.proto, h.dstPort)
	low, high := 0, len(*s) // searches the first range with last >= want
	for low < high {
		if mid := (low + high) / 2; (*s)[mid].last < want {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low < len(*s) && (*s)[low].first <= want
}
