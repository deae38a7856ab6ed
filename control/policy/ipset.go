package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tailscale/hujson"
)

// ipsets reads sets of addresses. Each is a list of steps that are applied in order: "add" or
// "remove" with an address, a prefix, a range or a host.
func (d *decoder) ipsets(p *Policy, v hujson.Value) {
	for _, f := range d.object(v, `"ipsets"`) {
		name := f.name.string
		if rest, ok := strings.CutPrefix(name, "ipset:"); !ok || rest == "" {
			d.problem(f.name.pos, "%q is not a name of a set: it must begin with \"ipset:\"", name)
		}
		var set []span
		for _, t := range d.texts(f.value, fmt.Sprintf("set %q", name)) {
			verb, what, ok := strings.Cut(strings.TrimSpace(t.string), " ")
			if !ok {
				verb, what = "add", verb
			}
			s, err := p.setAddresses(strings.TrimSpace(what))
			switch {
			case err != nil:
				d.problem(t.pos, "set %q: %v", name, err)
			case verb == "add":
				set = merge(append(set, s))
			case verb == "remove":
				set = without(set, s)
			default:
				d.problem(t.pos, "set %q: %q must begin with \"add\" or \"remove\"", name, t.string)
			}
		}
		if len(set) == 0 {
			d.warn(f.name.pos, "%q is empty: it stands for nothing", name)
		}
		d.explain(f.name.pos, "names %s", spansText(set))
		p.sets[name] = set
	}
}

// setAddresses reads the addresses of a step: a host, a range, an address or a prefix.
func (p *Policy) setAddresses(s string) (span, error) {
	if host, ok := p.hosts[s]; ok {
		return host, nil
	}
	if from, to, ok := strings.Cut(s, "-"); ok {
		first, err1 := netip.ParseAddr(from)
		last, err2 := netip.ParseAddr(to)
		if err1 == nil && err2 == nil && first.BitLen() == last.BitLen() && !last.Less(first) &&
			first.Zone() == "" && last.Zone() == "" {
			return span{first, last}, nil
		}
	}
	return parseAddresses(s)
}

func spansText(spans []span) string {
	texts := make([]string, len(spans))
	for i, s := range spans {
		texts[i] = s.String()
	}
	return strings.Join(texts, ", ")
}

// without returns the spans without the addresses of s.
func without(spans []span, s span) []span {
	var left []span
	for _, one := range spans {
		both, ok := one.overlap(s)
		if !ok {
			left = append(left, one)
			continue
		}
		if one.first.Less(both.first) {
			left = append(left, span{one.first, both.first.Prev()})
		}
		if both.last.Less(one.last) {
			left = append(left, span{both.last.Next(), one.last})
		}
	}
	return left
}
