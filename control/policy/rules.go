package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"ginnel/control"

	"github.com/tailscale/hujson"
)

func (d *decoder) acls(p *Policy, v hujson.Value) {
	for _, entry := range d.list(v, `"acls"`) {
		d.acl(p, entry)
	}
}

func (d *decoder) acl(p *Policy, v hujson.Value) {
	const what = "an entry of \"acls\""
	fields := d.record(v, what, "action", "proto", "src", "dst", "srcPosture")
	if f, ok := d.required(v, fields, "action", what); ok {
		if t, ok := d.text(f.value, `"action"`); ok && t.string != "accept" {
			d.problem(t.pos, "action %q is not supported: rules can only \"accept\"", t.string)
		}
	}
	d.refuse(fields, "srcPosture")
	var protos []int
	if f, ok := fields["proto"]; ok {
		protos = d.proto(f.value)
	}
	r := &rule{src: new(sources), protos: protos}
	if f, ok := d.required(v, fields, "src", what); ok {
		r.src.who = d.selectors(p, f.value, `"src"`, asSource)
	}
	if f, ok := d.required(v, fields, "dst", what); ok {
		for _, t := range d.texts(f.value, `"dst"`) {
			d.aclTarget(p, r, t)
		}
	}
	d.add(p, v, r)
}

// aclTarget reads a destination with its ports.
func (d *decoder) aclTarget(p *Policy, r *rule, t text) {
	host, portText, err := splitPorts(t.string)
	if err != nil {
		d.problem(t.pos, "%v", err)
		return
	}
	who, ok := d.selector(p, text{host, t.pos}, asDestination)
	ports, err := parsePorts(portText)
	switch {
	case err != nil:
		d.problem(t.pos, "%q: %v", t.string, err)
	case !hasPorts(r.protos) && portText != "*":
		d.problem(t.pos, "%q: the protocol has no ports; write \"*\"", t.string)
	case ok:
		r.dst = append(r.dst, target{who, ports})
	}
}

func (d *decoder) proto(v hujson.Value) []int {
	t, ok := d.text(v, `"proto"`)
	if !ok {
		return nil
	}
	protos, err := parseProto(t.string)
	if err != nil {
		d.problem(t.pos, "%v", err)
	}
	return protos
}

// refuse reports keys that would narrow a rule.
func (d *decoder) refuse(fields map[string]field, names ...string) {
	for _, name := range names {
		if f, ok := fields[name]; ok {
			d.problem(f.name.pos, "%q is not supported: without it the rule would allow more than it should", f.name.string)
		}
	}
}

// add adds a rule to the policy, in two parts if some destinations depend on whose nodes the sources are.
func (d *decoder) add(p *Policy, v hujson.Value, r *rule) {
	isSelf := func(t target) bool { return t.who.kind == self }
	i := slices.IndexFunc(r.dst, isSelf)
	if i < 0 {
		p.rules = append(p.rules, r)
		return
	}
	for _, s := range r.src.who {
		switch s.kind {
		case anything, user, group, anyMember:
		default:
			d.problem(v.StartOffset,
				"\"autogroup:self\" needs sources that are users, groups, \"autogroup:member\" or \"*\"")
			return
		}
	}
	for _, t := range r.dst {
		if isSelf(t) {
			p.rules = append(p.rules, &rule{src: r.src, dst: []target{t}, protos: r.protos, self: true, app: r.app})
		}
	}
	rest := *r
	rest.dst = slices.DeleteFunc(slices.Clone(r.dst), isSelf)
	if len(rest.dst) > 0 {
		p.rules = append(p.rules, &rest)
	}
}

func (d *decoder) grants(p *Policy, v hujson.Value) {
	for _, entry := range d.list(v, `"grants"`) {
		d.grant(p, entry)
	}
}

// grant reads an entry whose destinations are the same for all its protocols, and so becomes a rule for each protocol.
func (d *decoder) grant(p *Policy, v hujson.Value) {
	const what = "an entry of \"grants\""
	fields := d.record(v, what, "src", "dst", "ip", "app", "via", "srcPosture")
	d.refuse(fields, "via", "srcPosture")
	src := new(sources)
	if f, ok := d.required(v, fields, "src", what); ok {
		src.who = d.selectors(p, f.value, `"src"`, asSource)
	}
	var dst []selector
	if f, ok := d.required(v, fields, "dst", what); ok {
		dst = d.selectors(p, f.value, `"dst"`, asDestination)
	}
	ip, hasIP := fields["ip"]
	app, hasApp := fields["app"]
	if !hasIP && !hasApp && v.Value.Kind() == '{' {
		d.problem(v.StartOffset, "%s has neither \"ip\" nor \"app\"", what)
	}
	if hasIP {
		for _, t := range d.texts(ip.value, `"ip"`) {
			protos, ports, err := parseService(t.string)
			if err != nil {
				d.problem(t.pos, "%v", err)
				continue
			}
			r := &rule{src: src, protos: protos}
			for _, who := range dst {
				r.dst = append(r.dst, target{who, ports})
			}
			d.add(p, v, r)
		}
	}
	if hasApp {
		r := &rule{src: src, app: d.capabilities(app.value)}
		for _, who := range dst {
			r.dst = append(r.dst, target{who: who})
		}
		d.add(p, v, r)
	}
}

// parseService reads "*", "443", "80-90", "tcp:443", "gre:*". Without a protocol it is that of a rule that names none.
func parseService(s string) (protos []int, ports []control.PortRange, err error) {
	proto, portText, ok := strings.Cut(s, ":")
	switch {
	case !ok:
		proto, portText = "", s
	case proto == "":
		return nil, nil, fmt.Errorf("%q has no protocol before the colon", s)
	}
	if protos, err = parseProto(proto); err != nil {
		return nil, nil, err
	}
	if !hasPorts(protos) && portText != "*" {
		return nil, nil, fmt.Errorf("%q: the protocol has no ports; write \"*\"", s)
	}
	ports, err = parsePorts(portText)
	return protos, ports, err
}

// capabilities reads what a grant gives to applications: names, each with a list of any values.
func (d *decoder) capabilities(v hujson.Value) control.CapMap {
	capabilities := make(control.CapMap)
	for _, f := range d.object(v, `"app"`) {
		if f.name.string == "" {
			d.problem(f.name.pos, "a capability has no name")
		}
		values := []json.RawMessage{}
		for _, element := range d.list(f.value, "capability "+f.name.string) {
			value := element.Clone()
			value.Minimize()
			values = append(values, json.RawMessage(value.Pack()))
		}
		capabilities[f.name.string] = values
	}
	return capabilities
}
