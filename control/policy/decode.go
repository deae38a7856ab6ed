package policy

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/tailscale/hujson"
)

// decoder walks the syntax tree of a file. It goes on after each problem, so that all are found in
// one go.
type decoder struct {
	lines    []int // where lines begin
	problems Problems
	warnings Problems
	sloppy   sloppiness

	explanations []*explanation
	users        []text
	usersSeen    map[string]bool
}

// nameUser notes that the file names a user.
func (d *decoder) nameUser(t text) {
	if name := userName(t.string); !d.usersSeen[name] {
		d.usersSeen[name] = true
		d.users = append(d.users, t)
	}
}

// sloppiness says what becomes of entries that were accepted once and are not any more.
type sloppiness int

const (
	refuseSloppy sloppiness = iota
	keepSloppy              // with a warning: the policy is in force already
)

// careless reports an entry that nobody means as it is written. It goes on if the policy is in
// force.
func (d *decoder) careless(pos int, format string, args ...any) {
	if d.sloppy == keepSloppy {
		d.warn(pos, format, args...)
		return
	}
	d.problem(pos, format, args...)
}

// added reads a section that older versions left out. What is wrong with it in a policy that is in
// force is a warning.
func (d *decoder) added(read func(*Policy, hujson.Value)) func(*Policy, hujson.Value) {
	return func(p *Policy, v hujson.Value) {
		before := len(d.problems)
		read(p, v)
		if d.sloppy == keepSloppy {
			d.warnings = append(d.warnings, d.problems[before:]...)
			d.problems = d.problems[:before]
		}
	}
}

// text is a string of the file and where it stands.
type text struct {
	string
	pos int
}

func (d *decoder) note(pos int, format string, args ...any) Problem {
	line := sort.SearchInts(d.lines, pos+1)
	return Problem{line, pos - d.lines[line-1] + 1, fmt.Sprintf(format, args...)}
}

func (d *decoder) problem(pos int, format string, args ...any) {
	d.problems = append(d.problems, d.note(pos, format, args...))
}

func (d *decoder) warn(pos int, format string, args ...any) {
	d.warnings = append(d.warnings, d.note(pos, format, args...))
}

// wrongType says what a value is and what it should be.
func (d *decoder) wrongType(v hujson.Value, what, want string) {
	d.problem(v.StartOffset, "%s must be %s, not %s", what, want, describe(v))
}

func describe(v hujson.Value) string {
	switch v.Value.Kind() {
	case '{':
		return "an object"
	case '[':
		return "a list"
	}
	const most = 60
	literal := string(v.Value.(hujson.Literal))
	if len(literal) > most {
		literal = strings.ToValidUTF8(literal[:most], "") + "..."
	}
	switch v.Value.Kind() {
	case '"':
		return "the string " + literal
	case '0':
		return "the number " + literal
	}
	return literal
}

// field is a member of an object.
type field struct {
	name  text
	value hujson.Value
}

// object reads an object whose names are free. A name that is there twice is a problem: it would
// have two meanings. Names that begin with "#" are notes of tools that write policies.
func (d *decoder) object(v hujson.Value, what string) []field {
	o, ok := v.Value.(*hujson.Object)
	if !ok {
		d.wrongType(v, what, "an object")
		return nil
	}
	seen := make(map[string]bool)
	var fields []field
	for _, m := range o.Members {
		name := text{m.Name.Value.(hujson.Literal).String(), m.Name.StartOffset}
		if strings.HasPrefix(name.string, "#") {
			continue
		}
		if seen[name.string] {
			d.problem(name.pos, "%q is there twice", name.string)
			continue
		}
		seen[name.string] = true
		fields = append(fields, field{name, m.Value})
	}
	return fields
}

// record reads an object whose names are known. They may be in any case, as they may elsewhere.
func (d *decoder) record(v hujson.Value, what string, known ...string) map[string]field {
	found := make(map[string]field)
	for _, f := range d.object(v, what) {
		i := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, f.name.string) })
		if i < 0 {
			d.problem(f.name.pos, "unknown key %q in %s", f.name.string, what)
			continue
		}
		if _, twice := found[known[i]]; twice {
			d.problem(f.name.pos, "%q is there twice", known[i])
			continue
		}
		found[known[i]] = f
	}
	return found
}

// renamed has a field by the name that the format had for it once.
func (d *decoder) renamed(fields map[string]field, now, once string) {
	f, ok := fields[once]
	if !ok {
		return
	}
	if _, both := fields[now]; both {
		d.problem(f.name.pos, "%q is what %q was called: write one of them", once, now)
		return
	}
	d.warn(f.name.pos, "%q is what %q was called", once, now)
	fields[now] = f
}

func (d *decoder) list(v hujson.Value, what string) []hujson.Value {
	a, ok := v.Value.(*hujson.Array)
	if !ok {
		d.wrongType(v, what, "a list")
		return nil
	}
	return a.Elements
}

func (d *decoder) text(v hujson.Value, what string) (text, bool) {
	l, ok := v.Value.(hujson.Literal)
	if !ok || l.Kind() != '"' {
		d.wrongType(v, what, "a string")
		return text{}, false
	}
	return text{l.String(), v.StartOffset}, true
}

func (d *decoder) texts(v hujson.Value, what string) []text {
	var texts []text
	for _, e := range d.list(v, what) {
		if t, ok := d.text(e, "an element of "+what); ok {
			texts = append(texts, t)
		}
	}
	return texts
}

// required returns a field of a record, or says that it is missing.
func (d *decoder) required(v hujson.Value, fields map[string]field, name, what string) (field, bool) {
	f, ok := fields[name]
	if !ok && v.Value.Kind() == '{' {
		d.problem(v.StartOffset, "%s has no %q", what, name)
	}
	return f, ok
}
