package policy

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/tailscale/hujson"
)

// decoder walks the syntax tree of a file. It continues after each problem, so that all of them are
// reported together.
type decoder struct {
	lines    []int // offsets at which lines begin
	problems Problems
	warnings Problems
	mode     strictness

	explanations []*explanation
	users        []text
	usersSeen    map[string]bool
}

// nameUser records that the file names a user.
func (d *decoder) nameUser(t text) {
	if name := userName(t.string); !d.usersSeen[name] {
		d.usersSeen[name] = true
		d.users = append(d.users, t)
	}
}

// strictness says how to treat entries that only older versions of this package accepted.
type strictness int

const (
	strict  strictness = iota // refuse them
	inForce                   // accept them with a warning, because the policy is already in force
)

// formerlyAccepted reports an entry that is certainly a mistake and that older versions accepted: a
// problem, or a warning if the policy is in force.
func (d *decoder) formerlyAccepted(pos int, format string, args ...any) {
	if d.mode == inForce {
		d.warn(pos, format, args...)
		return
	}
	d.problem(pos, format, args...)
}

// newSection wraps the parser of a section that older versions ignored. In a policy that is in
// force its problems become warnings.
func (d *decoder) newSection(read func(*Policy, hujson.Value)) func(*Policy, hujson.Value) {
	return func(p *Policy, v hujson.Value) {
		before := len(d.problems)
		read(p, v)
		if d.mode == inForce {
			d.warnings = append(d.warnings, d.problems[before:]...)
			d.problems = d.problems[:before]
		}
	}
}

// text is a string of the file and its offset.
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

// object reads an object with arbitrary names. A repeated name is a problem. Names that begin with
// "#" are ignored: tools that write policies use them for notes.
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
			d.problem(name.pos, "%q is given twice", name.string)
			continue
		}
		seen[name.string] = true
		fields = append(fields, field{name, m.Value})
	}
	return fields
}

// record reads an object with a fixed set of names, which may be written in any case.
func (d *decoder) record(v hujson.Value, what string, known ...string) map[string]field {
	found := make(map[string]field)
	for _, f := range d.object(v, what) {
		i := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, f.name.string) })
		if i < 0 {
			d.problem(f.name.pos, "unknown key %q in %s", f.name.string, what)
			continue
		}
		if _, twice := found[known[i]]; twice {
			d.problem(f.name.pos, "%q is given twice", known[i])
			continue
		}
		found[known[i]] = f
	}
	return found
}

// renamed accepts a field under its former name, with a warning.
func (d *decoder) renamed(fields map[string]field, now, former string) {
	f, ok := fields[former]
	if !ok {
		return
	}
	if _, both := fields[now]; both {
		d.problem(f.name.pos, "%q is the former name of %q: write only one of them", former, now)
		return
	}
	d.warn(f.name.pos, "%q is the former name of %q", former, now)
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

// required returns a field of a record, or reports that it is missing.
func (d *decoder) required(v hujson.Value, fields map[string]field, name, what string) (field, bool) {
	f, ok := fields[name]
	if !ok && v.Value.Kind() == '{' {
		d.problem(v.StartOffset, "%s has no %q", what, name)
	}
	return f, ok
}
