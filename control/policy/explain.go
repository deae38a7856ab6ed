package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"ginnel/control"

	"github.com/tailscale/hujson"
)

// explanation is a sentence about what an entry of the file does.
type explanation struct {
	Problem
	rules []*rule // the rules that the entry has become; their sources and destinations are counted
	tag   string  // the tag that the entry defines; its nodes are counted
}

// of adds a rule that the entry has become.
func (e *explanation) of(r *rule) { e.rules = append(e.rules, r) }

func (d *decoder) explain(pos int, format string, args ...any) *explanation {
	e := &explanation{Problem: d.note(pos, format, args...)}
	d.explanations = append(d.explanations, e)
	return e
}

// Explain describes what each entry of the file does and to how many of the nodes it applies, in
// the order of the file.
func (p *Policy) Explain(nodes []Node) []Problem {
	if p == nil {
		return nil
	}
	members := make([]*member, len(nodes))
	for i, n := range nodes {
		members[i] = newMember(n)
	}
	all := make([]Problem, 0, len(p.explained))
	for _, e := range p.explained {
		said := e.Problem
		switch {
		case len(e.rules) > 0:
			from := countOf(members, func(m *member) bool {
				return slices.ContainsFunc(e.rules, func(r *rule) bool { return r.isSource(m) })
			})
			to := countOf(members, func(m *member) bool {
				return slices.ContainsFunc(e.rules, func(r *rule) bool { return r.isDestination(m) })
			})
			said.Text += fmt.Sprintf(" (now %s to %s)", from, to)
		case e.tag != "":
			tagged := countOf(members, func(m *member) bool { return slices.Contains(m.Tags, e.tag) })
			said.Text += fmt.Sprintf(" (now on %s)", tagged)
		}
		all = append(all, said)
	}
	slices.SortStableFunc(all, inOrder)
	return all
}

func countOf(members []*member, is func(m *member) bool) string {
	count := 0
	for _, m := range members {
		if is(m) {
			count++
		}
	}
	if count == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", count)
}

func (r *rule) isSource(m *member) bool {
	return slices.ContainsFunc(r.src.who, func(s selector) bool { return s.sends(m) })
}

func (r *rule) isDestination(m *member) bool {
	return slices.ContainsFunc(r.dst, func(t target) bool { return r.at(&t.who, m) })
}

// named returns the strings of a list, separated by commas.
func (d *decoder) named(f field) string {
	list, ok := f.value.Value.(*hujson.Array)
	if !ok {
		return ""
	}
	var words []string
	for _, e := range list.Elements {
		if l, ok := e.Value.(hujson.Literal); ok && l.Kind() == '"' {
			words = append(words, l.String())
		}
	}
	return strings.Join(words, ", ")
}

// protoText describes the protocols of an entry of "acls".
func protoText(fields map[string]field, protos []int) string {
	if protos == nil {
		return " by TCP, UDP and ICMP"
	}
	l, _ := fields["proto"].value.Value.(hujson.Literal)
	return " by protocol " + l.String()
}

func viaText(tags []string) string {
	if len(tags) == 0 {
		return ""
	}
	return ", only through nodes with " + strings.Join(tags, ", ")
}

func capText(given control.CapMap) string { return strings.Join(slices.Sorted(maps.Keys(given)), ", ") }

// companionText describes what the rule grants in the reverse direction.
func companionText(r *rule) string {
	other := r.companion()
	if other == nil {
		return ""
	}
	return "; in the other direction, " + capText(other.app)
}
