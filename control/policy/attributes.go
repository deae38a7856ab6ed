package policy

import (
	"slices"

	"ginnel/control"

	"github.com/tailscale/hujson"
)

// attributes is an entry of "nodeAttrs": settings that the server passes to clients.
type attributes struct {
	who   []selector
	given control.CapMap
}

// randomPort makes clients choose their UDP port at random, for firewalls that confuse two clients
// behind them that use the same port.
const randomPort = "randomize-client-port"

func (d *decoder) nodeAttrs(p *Policy, v hujson.Value) {
	const what = "an entry of \"nodeAttrs\""
	for _, entry := range d.list(v, `"nodeAttrs"`) {
		fields := d.record(entry, what, "target", "attr", "app", "ipPool")
		a := attributes{given: make(control.CapMap)}
		if f, ok := d.required(entry, fields, "target", what); ok {
			a.who = d.selectors(p, f.value, `"target"`, asTarget)
		}
		if f, ok := fields["attr"]; ok {
			for _, t := range d.texts(f.value, `"attr"`) {
				if t.string == "" {
					d.problem(t.pos, "an attribute has no name")
				}
				a.given[t.string] = nil // clients expect null here, not a list
			}
		}
		if f, ok := fields["app"]; ok {
			for name, values := range d.capabilities(f.value) {
				a.given[name] = values
			}
		}
		if f, ok := fields["ipPool"]; ok {
			d.warn(f.name.pos, "%q has no effect: nodes get the next free address", f.name.string)
		}
		if len(a.given) == 0 || len(a.who) == 0 {
			d.warn(entry.StartOffset, "the entry has no effect: it gives nothing, or to nobody")
		}
		d.explain(entry.StartOffset, "gives the nodes of %s the attributes %s", d.named(fields["target"]), capText(a.given))
		p.attrs = append(p.attrs, a)
	}
}

// randomizeClientPort parses the key of the policy that gives all nodes the attribute randomPort.
func (d *decoder) randomizeClientPort(p *Policy, v hujson.Value) {
	l, ok := v.Value.(hujson.Literal)
	if !ok || l.Kind() != 't' && l.Kind() != 'f' {
		d.wrongType(v, `"randomizeClientPort"`, "true or false")
		return
	}
	if l.Kind() == 'f' {
		d.explain(v.StartOffset, "leaves the choice of UDP ports to the nodes")
		return
	}
	d.explain(v.StartOffset, "gives all nodes the attribute %s", randomPort)
	p.attrs = append(p.attrs, attributes{[]selector{{kind: anything}}, control.CapMap{randomPort: nil}})
}

// Attributes returns the attributes that the policy gives a node, or nil. They do not depend on
// other nodes.
func (c *Compiled) Attributes(id int64) control.CapMap {
	i, ok := c.index[id]
	if !ok {
		return nil
	}
	var all control.CapMap
	for _, a := range c.attrs {
		if !slices.ContainsFunc(a.who, func(s selector) bool { return s.isAbout(c.members[i]) }) {
			continue
		}
		for name, values := range a.given {
			if all == nil {
				all = make(control.CapMap)
			}
			all[name] = append(all[name], values...)
		}
	}
	return all
}

// isAbout reports whether s selects the node itself or one of its own addresses.
func (s *selector) isAbout(m *member) bool {
	selected := func(a span) bool { return s.span.contains(a.first) }
	return s.names(m) || s.kind == addresses && slices.ContainsFunc(m.addrs, selected)
}
