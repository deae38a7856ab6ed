package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"
)

// test is an entry of "tests": the destinations that its source must and must not reach.
type test struct {
	src    selector
	name   string // of the source, as it is written
	protos []int  // it is enough to reach the destination by one of them
	accept []probe
	deny   []probe
}

// probe is a destination of a test, with a port.
type probe struct {
	text
	line, column int
	who          selector
	port         uint16
}

func (d *decoder) tests(p *Policy, v hujson.Value) {
	const what = "an entry of \"tests\""
	for _, entry := range d.list(v, `"tests"`) {
		fields := d.record(entry, what, "src", "proto", "accept", "deny", "user", "allow", "srcPostureAttrs")
		d.renamed(fields, "src", "user")
		d.renamed(fields, "accept", "allow")
		if f, ok := fields["srcPostureAttrs"]; ok {
			d.problem(f.name.pos, "%q is not supported: no rule looks at postures", f.name.string)
		}
		t := test{protos: []int{6, 17}}
		if f, ok := fields["proto"]; ok {
			if protos := d.proto(f.value); protos != nil {
				t.protos = protos
			}
		}
		f, ok := d.required(entry, fields, "src", what)
		if !ok {
			continue
		}
		src, ok := d.text(f.value, `"src"`)
		if !ok {
			continue
		}
		t.name = src.string
		t.src, _ = d.testSelector(p, src)
		for name, probes := range map[string]*[]probe{"accept": &t.accept, "deny": &t.deny} {
			if f, ok := fields[name]; ok {
				*probes = d.probes(p, f.value, strconv.Quote(name), t.protos)
			}
		}
		if isEmptyValue(fields["accept"].value) && isEmptyValue(fields["deny"].value) {
			d.warn(entry.StartOffset, "the test has no effect: it says neither what to \"accept\" nor what to \"deny\"")
		}
		var claims []string
		if reached := d.named(fields["accept"]); reached != "" {
			claims = append(claims, "reaches "+reached)
		}
		if kept := d.named(fields["deny"]); kept != "" {
			claims = append(claims, "does not reach "+kept)
		}
		claim := cmp.Or(strings.Join(claims, " and "), "reaches nothing in particular")
		d.explain(entry.StartOffset, "tests that %s %s", t.name, claim)
		p.tests = append(p.tests, t)
	}
}

// testSelector parses the source or a destination of a test: a user, group, tag or single address.
func (d *decoder) testSelector(p *Policy, t text) (selector, bool) {
	s, ok := d.selector(p, t, inTest)
	if ok && s.kind == addresses && s.span.first != s.span.last {
		d.problem(t.pos, "%q is more than one address", t.string)
		return s, false
	}
	return s, ok
}

func (d *decoder) probes(p *Policy, v hujson.Value, what string, protos []int) []probe {
	var probes []probe
	for _, t := range d.texts(v, what) {
		host, portText, err := splitPorts(t.string)
		if err != nil {
			d.problem(t.pos, "%v", err)
			continue
		}
		who, ok := d.testSelector(p, text{host, t.pos})
		port, err := strconv.ParseUint(portText, 10, 16)
		if err != nil && (hasPorts(protos) || portText != "*") {
			d.problem(t.pos, "%q: %q is not a single port", t.string, portText)
			continue
		}
		if place := d.note(t.pos, ""); ok {
			probes = append(probes, probe{t, place.Line, place.Column, who, uint16(port)})
		}
	}
	return probes
}

// reaches reports whether the rules allow a service from an address to one at or behind a member.
func (c *Compiled) reaches(protos []int, src netip.Addr, index int, dst netip.Addr, port uint16) bool {
	m := c.members[index]
	for i, r := range c.rules {
		if r.app != nil || !c.receives.has(index, i) {
			continue
		}
		if from := c.senders[i].of(r, m); from == nil || !within(from.spans, src) {
			continue
		}
		for _, proto := range protos {
			if slices.ContainsFunc(r.dst, func(t target) bool { return t.who.holds(m, dst) && r.serves(t, proto, port) }) {
				return true
			}
		}
	}
	return false
}

// holds reports whether s selects an address that is at or behind the member.
func (s *selector) holds(m *member, a netip.Addr) bool {
	return s.kind == anything || slices.ContainsFunc(s.at(m), func(part span) bool { return part.contains(a) })
}

// serves reports whether the packet filter allows the service by this target. For ICMP any rule is
// enough, as in the packet filter.
func (r *rule) serves(t target, proto int, port uint16) bool {
	const icmp, tcp, udp, icmp6, sctp = 1, 6, 17, 58, 132
	switch {
	case proto == icmp || proto == icmp6:
		return true
	case r.protos == nil && proto != tcp && proto != udp, r.protos != nil && !slices.Contains(r.protos, proto):
		return false
	}
	for _, p := range t.ports {
		if p == allPorts[0] || (proto == tcp || proto == udp || proto == sctp) && p.First <= port && port <= p.Last {
			return true
		}
	}
	return false
}
