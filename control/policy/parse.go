package policy

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

const (
	// MaxSize is the largest policy file in bytes. Encoded as JSON it must fit into an entry of the
	// store.
	MaxSize = 512 << 10
	// maxDepth bounds the nesting of values, because the parser recurses. The format needs six levels.
	maxDepth = 100
)

// leftOut lists keys of the format that this server ignores, with the consequence. Ignoring them
// only ever allows less.
var leftOut = map[string]string{
	"ssh":           "no SSH access is given by the policy",
	"sshTests":      "there are no SSH rules to test",
	"postures":      "nothing can refer to a posture",
	"derpMap":       "relays are configured at the server, with --derp-map",
	"disableIPv4":   "nodes have addresses of both families",
	"OneCGNATRoute": "write the attribute \"one-cgnat?v=true\" in \"nodeAttrs\" instead",
}

// Parse parses a policy file. Its error is a Problems with everything that is wrong.
//
// A file that is empty or has only comments is refused, because it could be meant to allow
// everything or nothing: "{}" allows nothing, and having no file allows everything.
func Parse(src []byte) (*Policy, error) { return parseFile(src, strict) }

// ParseInForce is Parse for a policy that was accepted before, perhaps by an older and less strict
// version. Entries that are refused only since then cause warnings and keep their effect.
func ParseInForce(src []byte) (*Policy, error) { return parseFile(src, inForce) }

// byteOrderMark is written by some editors at the start of a file. It has no meaning in UTF-8.
var byteOrderMark = []byte("\ufeff")

func parseFile(src []byte, mode strictness) (*Policy, error) {
	src = bytes.TrimPrefix(src, byteOrderMark)
	if len(src) > MaxSize && mode == strict {
		return nil, Problems{{1, 1, fmt.Sprintf("the file has %d bytes, more than %d", len(src), MaxSize)}}
	}
	end := len(src)
	src = append(bytes.Clone(src), '\n') // hujson needs it after a // comment at the end
	d := &decoder{lines: []int{0}, mode: mode, usersSeen: make(map[string]bool)}
	for i, b := range src {
		if b == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	if pos := tooDeep(src); pos >= 0 {
		return nil, Problems{d.note(pos, "values are nested deeper than %d levels", maxDepth)}
	}
	root, err := hujson.Parse(src)
	switch {
	case err != nil && root.Value == nil && root.StartOffset == len(src):
		return nil, Problems{{1, 1, "the file is empty; {} is a policy that allows nothing"}}
	case err != nil:
		return nil, Problems{d.syntaxProblem(err, end)}
	}
	p := d.policy(root)
	if len(d.problems) > 0 {
		slices.SortStableFunc(d.problems, inOrder)
		return nil, d.problems
	}
	slices.SortStableFunc(d.warnings, inOrder)
	p.warned, p.explained = d.warnings, d.explanations
	p.users, p.place = d.users, func(pos int, text string) Problem { return d.note(pos, "%s", text) }
	return p, nil
}

func inOrder(a, b Problem) int {
	if a.Line != b.Line {
		return a.Line - b.Line
	}
	return a.Column - b.Column
}

// syntaxProblem parses line and column out of the text of a parser error, which has them nowhere
// else. A position in the appended line is moved back to end, the end of the file.
func (d *decoder) syntaxProblem(err error, end int) Problem {
	var line, column int
	place, what, ok := strings.Cut(strings.TrimPrefix(err.Error(), "hujson: "), ": ")
	_, scanErr := fmt.Sscanf(place, "line %d, column %d", &line, &column)
	if !ok || scanErr != nil || line < 1 || line > len(d.lines) {
		return Problem{1, 1, err.Error()}
	}
	return d.note(min(d.lines[line-1]+column-1, end), "%s", what)
}

// tooDeep returns the offset at which values are nested too deep, or -1.
func tooDeep(src []byte) int {
	depth := 0
	for i := 0; i < len(src); i++ {
		switch rest := src[i:]; {
		case src[i] == '[' || src[i] == '{':
			if depth++; depth > maxDepth {
				return i
			}
		case src[i] == ']' || src[i] == '}':
			depth--
		case src[i] == '"':
			for i++; i < len(src) && src[i] != '"'; i++ {
				if src[i] == '\\' {
					i++
				}
			}
		case bytes.HasPrefix(rest, []byte("//")):
			i += max(bytes.IndexByte(rest, '\n'), 0)
		case bytes.HasPrefix(rest, []byte("/*")):
			if n := bytes.Index(rest[2:], []byte("*/")); n >= 0 {
				i += 2 + n + 1
			}
		}
	}
	return -1
}

func (d *decoder) policy(root hujson.Value) *Policy {
	p := &Policy{
		groups: make(map[string][]string),
		hosts:  make(map[string]span),
		sets:   make(map[string][]span),
		owners: make(map[string][]selector),
		routes: make(map[span][]selector),
	}
	known := []string{"groups", "hosts", "ipsets", "tagOwners", "autoApprovers", "acls", "grants", "nodeAttrs",
		"randomizeClientPort", "tests", "defaultSrcPosture"}
	for key := range leftOut {
		known = append(known, key)
	}
	fields := d.record(root, "the policy", known...)
	read := func(name string, f func(*Policy, hujson.Value)) {
		if field, ok := fields[name]; ok {
			f(p, field.value)
		}
	}
	// The sections that define names come first, because the others refer to them.
	read("groups", d.groups)
	read("hosts", d.hosts)
	read("ipsets", d.newSection(d.ipsets))
	read("tagOwners", d.tagOwners)
	read("autoApprovers", d.autoApprovers)
	read("acls", d.acls)
	read("grants", d.grants)
	read("nodeAttrs", d.newSection(d.nodeAttrs))
	read("randomizeClientPort", d.newSection(d.randomizeClientPort))
	read("tests", d.tests)
	if f, ok := fields["defaultSrcPosture"]; ok {
		d.problem(f.name.pos, "%q is not supported: without it all rules would allow more than they should", f.name.string)
	}
	for key, why := range leftOut {
		if f, ok := fields[key]; ok {
			d.warn(f.name.pos, "%q has no effect: %s", f.name.string, why)
			d.explain(f.name.pos, "has no effect: %s", why)
		}
	}
	_, hasACLs := fields["acls"]
	_, hasGrants := fields["grants"]
	if !hasACLs && !hasGrants {
		d.warn(root.StartOffset, "there are neither \"acls\" nor \"grants\": nothing is allowed, which cuts the network; "+
			"other servers take this for a policy that allows everything")
	}
	return p
}

func (d *decoder) groups(p *Policy, v hujson.Value) {
	for _, f := range d.object(v, `"groups"`) {
		name := f.name.string
		if rest, ok := strings.CutPrefix(name, "group:"); !ok || rest == "" {
			d.problem(f.name.pos, "%q is not a name of a group: it must begin with \"group:\"", name)
		}
		users := []string{}
		for _, t := range d.texts(f.value, fmt.Sprintf("group %q", name)) {
			switch {
			case strings.HasPrefix(t.string, "group:"):
				d.problem(t.pos, "%q in %q: groups cannot contain groups; list its users", t.string, name)
			case !isUser(t.string):
				d.problem(t.pos, "%q in %q is not a user", t.string, name)
			default:
				users = append(users, userName(t.string))
				d.nameUser(t)
			}
		}
		d.explain(f.name.pos, "names a group of %d users", len(users))
		slices.Sort(users)
		p.groups[name] = slices.Compact(users)
	}
}

// isUser reports whether s is a valid user where only a user can stand.
func isUser(s string) bool {
	name := userName(s)
	_, notAddr := netip.ParseAddr(name)
	return name != "" && notAddr != nil && !strings.ContainsAny(name, ":/*, \t\n")
}

func (d *decoder) hosts(p *Policy, v hujson.Value) {
	for _, f := range d.object(v, `"hosts"`) {
		name := f.name.string
		if !isUser(name) || strings.Contains(name, "@") {
			d.problem(f.name.pos, "%q is not a name of a host: it must not be empty, an address, "+
				"or contain any of \"@:/*,\" or space", name)
		}
		t, ok := d.text(f.value, fmt.Sprintf("host %q", name))
		if !ok {
			continue
		}
		s, err := parseAddresses(t.string)
		if err != nil {
			d.problem(t.pos, "host %q: %v", name, err)
		}
		d.explain(f.name.pos, "names %s", t.string)
		p.hosts[name] = s
	}
}

// parseAddresses reads an address or a prefix.
func parseAddresses(s string) (span, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && !a.Is4In6() {
		return addrSpan(a), nil
	}
	prefix, err := netip.ParsePrefix(s)
	switch {
	case err != nil || prefix.Addr().Is4In6():
		return span{}, fmt.Errorf("%q is neither an address nor a prefix", s)
	case prefix != prefix.Masked():
		return span{}, fmt.Errorf("%q has host bits set: the prefix is %q", s, prefix.Masked())
	}
	return prefixSpan(prefix), nil
}

func (d *decoder) tagOwners(p *Policy, v hujson.Value) {
	fields := d.object(v, `"tagOwners"`)
	for _, f := range fields { // first all tags, because an owner can be a tag that comes later
		if !isTag(f.name.string) {
			why := ""
			if strings.Contains(f.name.string, "*") {
				why = "; patterns are not supported, list each tag"
			}
			d.problem(f.name.pos, "%q is not a tag: it must be \"tag:\", a letter, and then letters, digits and dashes%s",
				f.name.string, why)
		}
		p.owners[f.name.string] = nil
	}
	for _, f := range fields {
		p.owners[f.name.string] = d.selectors(p, f.value, fmt.Sprintf("owners of %q", f.name.string), asOwner)
		d.explain(f.name.pos, "lets %s give nodes this tag", cmp.Or(d.named(f), "nobody")).tag = f.name.string
	}
}

func isTag(s string) bool {
	name, ok := strings.CutPrefix(s, "tag:")
	for i, r := range name {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || !('0' <= r && r <= '9' || r == '-')) {
			return false
		}
	}
	return ok && name != ""
}

func (d *decoder) autoApprovers(p *Policy, v hujson.Value) {
	fields := d.record(v, `"autoApprovers"`, "routes", "exitNode", "services")
	if f, ok := fields["exitNode"]; ok {
		d.warnEmpty(f)
		p.exits = d.selectors(p, f.value, `"exitNode"`, asOwner)
		d.explain(f.name.pos, "approves exit nodes of %s", cmp.Or(d.named(f), "nobody"))
	}
	if f, ok := fields["services"]; ok {
		d.warn(f.name.pos, "%q has no effect: nodes cannot advertise services", f.name.string)
		d.explain(f.name.pos, "has no effect: nodes cannot advertise services")
	}
	f, ok := fields["routes"]
	if !ok {
		return
	}
	for _, f := range d.object(f.value, `"routes"`) {
		s, err := parseAddresses(f.name.string)
		if err != nil {
			d.problem(f.name.pos, "route: %v", err)
		}
		d.warnEmpty(f)
		d.explain(f.name.pos, "approves routes within it that nodes of %s advertise", cmp.Or(d.named(f), "nobody"))
		p.routes[s] = append(p.routes[s], d.selectors(p, f.value, fmt.Sprintf("approvers of %q", f.name.string), asOwner)...)
	}
}
