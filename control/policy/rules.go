package policy

import (
	"cmp"
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
	fields := d.record(v, what, "action", "proto", "src", "dst", "users", "ports", "srcPosture")
	d.renamed(fields, "src", "users")
	d.renamed(fields, "dst", "ports")
	if f, ok := d.required(v, fields, "action", what); ok {
		if t, ok := d.text(f.value, `"action"`); ok && t.string != "accept" {
			why := ""
			if t.string == "check" {
				why = ", and \"check\" asks for a login before SSH, which is not supported; write \"accept\" or leave the entry out"
			}
			d.problem(t.pos, "action %q is not supported: rules can only \"accept\"%s", t.string, why)
		}
	}
	d.refuseNarrowing(fields, "srcPosture")
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
	d.warnNoEnds(v, fields)
	d.add(p, v, r)
	d.explain(v.StartOffset, "lets %s reach %s%s", cmp.Or(d.named(fields["src"]), "nobody"),
		cmp.Or(d.named(fields["dst"]), "nothing"), protoText(fields, r.protos)).of(r)
}

// warnNoEnds warns if the entry has no sources or no destinations.
func (d *decoder) warnNoEnds(v hujson.Value, fields map[string]field) {
	for _, name := range []string{"src", "dst"} {
		if list, ok := fields[name].value.Value.(*hujson.Array); ok && len(list.Elements) == 0 {
			d.warn(v.StartOffset, "the entry has no effect: its %q is empty", name)
			return
		}
	}
}

// warnEmpty warns if a list or object is empty.
func (d *decoder) warnEmpty(f field) {
	if f.value.Value != nil && isEmptyValue(f.value) {
		d.warn(f.name.pos, "%q has no effect: it is empty", f.name.string)
	}
}

// aclTarget parses a destination with its ports and adds it to the rule.
func (d *decoder) aclTarget(p *Policy, r *rule, t text) {
	host, portText, err := splitPorts(t.string)
	if err != nil {
		d.problem(t.pos, "%v", err)
		return
	}
	all := d.expand(p, text{host, t.pos}, asDestination)
	ports, err := parsePorts(portText)
	switch {
	case err != nil:
		d.problem(t.pos, "%q: %v", t.string, err)
	case !hasPorts(r.protos) && portText != "*":
		d.problem(t.pos, "%q: the protocol has no ports; write \"*\"", t.string)
	default:
		d.noPort(t, ports)
		for _, who := range all {
			r.dst = append(r.dst, target{who, ports})
		}
	}
}

// noPort reports a range that begins with port 0, because no service uses that port.
func (d *decoder) noPort(t text, ports []control.PortRange) {
	for _, p := range ports {
		if p.First == 0 && p != allPorts[0] {
			d.formerlyAccepted(t.pos, "%q: there is no port 0; write \"*\" for all ports", t.string)
		}
	}
}

func (d *decoder) proto(v hujson.Value) []int {
	t, ok := text{pos: v.StartOffset}, true
	if v.Value.Kind() == '0' { // a number means the same as a string with that number
		t.string = string(v.Value.(hujson.Literal))
	} else if t, ok = d.text(v, `"proto"`); !ok {
		return nil
	}
	protos, err := parseProto(t.string)
	if err != nil {
		d.problem(t.pos, "%v", err)
	}
	return protos
}

// refuseNarrowing reports keys that would narrow the rule and are not supported.
func (d *decoder) refuseNarrowing(fields map[string]field, names ...string) {
	for _, name := range names {
		if f, ok := fields[name]; ok {
			d.problem(f.name.pos, "%q is not supported: without it the rule would allow more than it should", f.name.string)
		}
	}
}

// add adds a rule to the policy. Destinations autogroup:self are split off as rules of their own.
func (d *decoder) add(p *Policy, v hujson.Value, r *rule) {
	isSelf := func(t target) bool { return t.who.kind == self }
	if !slices.ContainsFunc(r.dst, isSelf) {
		p.addRule(r)
		return
	}
	for _, s := range r.src.who {
		switch s.kind {
		case user, group, anyMember:
			continue
		case anything:
			d.formerlyAccepted(v.StartOffset, "\"autogroup:self\" with the source \"*\": \"*\" has no nodes of its own; "+
				"write \"autogroup:member\"")
			continue
		}
		d.problem(v.StartOffset, "\"autogroup:self\" needs sources that are users, groups or \"autogroup:member\"")
		return
	}
	for _, t := range r.dst {
		if isSelf(t) {
			p.addRule(&rule{src: r.src, dst: []target{t}, protos: r.protos, self: true, app: r.app})
		}
	}
	rest := *r
	rest.dst = slices.DeleteFunc(slices.Clone(r.dst), isSelf)
	if len(rest.dst) > 0 {
		p.addRule(&rest)
	}
}

// addRule adds a rule with its companion.
func (p *Policy) addRule(r *rule) {
	p.rules = append(p.rules, r)
	if other := r.companion(); other != nil {
		p.rules = append(p.rules, other)
	}
}

func (d *decoder) grants(p *Policy, v hujson.Value) {
	for _, entry := range d.list(v, `"grants"`) {
		d.grant(p, entry)
	}
}

// grant parses an entry of "grants". It becomes one rule for each element of "ip", with the same
// destinations, and one for "app".
func (d *decoder) grant(p *Policy, v hujson.Value) {
	const what = "an entry of \"grants\""
	g := grant{entry: v, fields: d.record(v, what, "src", "dst", "ip", "app", "via", "srcPosture"), src: new(sources)}
	d.refuseNarrowing(g.fields, "srcPosture")
	if f, ok := d.required(v, g.fields, "src", what); ok {
		g.src.who = d.selectors(p, f.value, `"src"`, asSource)
	}
	if f, ok := d.required(v, g.fields, "dst", what); ok {
		g.dst = d.selectors(p, f.value, `"dst"`, asDestination)
	}
	ip, hasIP := g.fields["ip"]
	app, hasApp := g.fields["app"]
	switch {
	case v.Value.Kind() != '{':
	case !hasIP && !hasApp:
		d.problem(v.StartOffset, "%s has neither \"ip\" nor \"app\"", what)
	case isEmptyValue(ip.value) && isEmptyValue(app.value):
		d.formerlyAccepted(v.StartOffset, "%s grants nothing: write what, such as \"ip\": [\"tcp:443\"]", what)
	default:
		d.warnNoEnds(v, g.fields)
		d.warnEmpty(ip)
		d.warnEmpty(app)
	}
	if f, ok := g.fields["via"]; ok {
		g.via = d.routers(p, &g, f)
	}
	if hasIP {
		d.grantPassage(p, &g, ip)
	}
	if hasApp {
		d.grantCapabilities(p, &g, app)
	}
}

// grant is an entry of "grants" that is being parsed.
type grant struct {
	entry  hujson.Value
	fields map[string]field
	src    *sources
	dst    []selector
	via    []string
}

// isEmptyValue reports whether v is missing, or is an empty list or object.
func isEmptyValue(v hujson.Value) bool {
	switch v := v.Value.(type) {
	case *hujson.Array:
		return len(v.Elements) == 0
	case *hujson.Object:
		return len(v.Members) == 0
	}
	return v.Value == nil // a literal is reported elsewhere as the wrong type
}

// routers parses "via": the tags of the routers through which the destinations may be reached.
func (d *decoder) routers(p *Policy, g *grant, via field) []string {
	tags := []string{}
	for _, t := range d.texts(via.value, `"via"`) {
		if s, ok := d.selector(p, t, asOwner); ok && s.kind == tag {
			tags = append(tags, s.name)
		} else if ok {
			d.problem(t.pos, "%q in \"via\" is not a tag: routers are named by their tags", t.string)
		}
	}
	if _, hasApp := g.fields["app"]; hasApp {
		d.problem(via.name.pos, "\"via\" is for \"ip\": capabilities are of nodes, which need no router; "+
			"make two entries of this")
	}
	for _, who := range g.dst {
		if who.kind != addresses && who.kind != exitInternet {
			d.problem(via.name.pos, "\"via\" needs destinations behind routers: addresses, hosts, ipsets "+
				"or \"autogroup:internet\"")
			break
		}
	}
	if len(tags) == 0 && isEmptyValue(via.value) {
		d.problem(via.name.pos, "\"via\" is empty: name the tags of routers, or leave it out")
	}
	return tags
}

func (d *decoder) grantPassage(p *Policy, g *grant, ip field) {
	note := d.explain(g.entry.StartOffset, "lets %s reach %s by %s%s", cmp.Or(d.named(g.fields["src"]), "nobody"),
		cmp.Or(d.named(g.fields["dst"]), "nothing"), cmp.Or(d.named(ip), "no protocol"), viaText(g.via))
	for _, t := range d.texts(ip.value, `"ip"`) {
		protos, ports, err := parseService(t.string)
		if err != nil {
			d.problem(t.pos, "%v", err)
			continue
		}
		d.noPort(t, ports)
		r := &rule{src: g.src, protos: protos, via: g.via}
		for _, who := range g.dst {
			r.dst = append(r.dst, target{who, ports})
		}
		d.add(p, g.entry, r)
		note.of(r)
	}
}

func (d *decoder) grantCapabilities(p *Policy, g *grant, app field) {
	r := &rule{src: g.src, app: d.capabilities(app.value)}
	for _, who := range g.dst {
		if who.kind == exitInternet {
			d.formerlyAccepted(app.name.pos, "\"app\" for \"autogroup:internet\": capabilities are of nodes, "+
				"not of what is behind them")
		}
		if who.kind == addresses && len(overlaps(meshRanges, []span{who.span})) == 0 {
			d.warn(app.name.pos, "\"app\" has no effect at %s unless nodes have addresses there: "+
				"capabilities are of nodes", who.span)
		}
		r.dst = append(r.dst, target{who: who})
	}
	if len(r.app) == 0 {
		return
	}
	d.add(p, g.entry, r)
	note := d.explain(g.entry.StartOffset, "gives %s at %s %s%s", cmp.Or(d.named(g.fields["src"]), "nobody"),
		cmp.Or(d.named(g.fields["dst"]), "nothing"), capText(r.app), companionText(r))
	note.of(r)
}

// parseService parses an element of "ip": "*", "443", "80-90", "tcp:443" or "gre:*". Without a
// protocol, protos is nil.
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

// capabilities parses "app": names of capabilities, each with a list of arbitrary values.
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
