package policy

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// Every mistake is reported with its place and the text there, all of them together and nothing
// else.
func TestProblems(t *testing.T) {
	for name, parts := range sections(t, "testdata/problems.txt") {
		t.Run(name, func(t *testing.T) {
			source, marks := unmark(parts[0])
			want := strings.Split(parts[1], "\n")
			p, err := Parse([]byte(source))
			problems, ok := errors.AsType[Problems](err)
			if p != nil || !ok {
				t.Fatalf("got %v, %v; want problems", p, err)
			}
			if len(problems) != len(want) {
				t.Fatalf("got %d problems, want %d:\n%v", len(problems), len(want), err)
			}
			for i, got := range problems {
				if got.Text != want[i] {
					t.Errorf("problem %d: got %q, want %q", i, got.Text, want[i])
				}
				if !marks[[2]int{got.Line, got.Column}] {
					t.Errorf("%v: its place is not marked", got)
				}
			}
		})
	}
}

// unmark removes the marks from a source and returns their places.
func unmark(source string) (string, map[[2]int]bool) {
	marks := make(map[[2]int]bool)
	var b strings.Builder
	for part := range strings.SplitSeq(source, "«") {
		if _, rest, ok := strings.Cut(part, "»"); ok {
			so := b.String()
			marks[[2]int{1 + strings.Count(so, "\n"), len(so) - strings.LastIndex(so, "\n")}] = true
			part = rest
		}
		b.WriteString(part)
	}
	return b.String(), marks
}

// The error has a line for each problem.
func TestErrorText(t *testing.T) {
	_, err := Parse([]byte("{\n  \"acls\": 1,\n  \"x\": 2\n}"))
	want := "2:11: \"acls\" must be a list, not the number 1\n3:3: unknown key \"x\" in the policy"
	if err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestTooLong(t *testing.T) {
	if _, err := Parse(make([]byte, MaxSize+1)); err == nil ||
		err.Error() != "1:1: the file has 524289 bytes, more than 524288" {
		t.Errorf("got %v", err)
	}
}

// Deeply nested brackets cause an error and not a stack overflow, also if comments or strings hide
// some of them.
func TestTooDeep(t *testing.T) {
	deep := strings.Repeat("[", 200)
	for source, want := range map[string]string{
		strings.Repeat("[", MaxSize):                          "1:101: values are nested deeper than 100 levels",
		strings.Repeat("[\"]\",", 200):                        "1:501: values are nested deeper than 100 levels",
		strings.Repeat("[/*]*/", 200):                         "1:601: values are nested deeper than 100 levels",
		strings.Repeat("[\"\\\"]\",", 200):                    "1:701: values are nested deeper than 100 levels",
		strings.Repeat("[//]\n", 200):                         "101:1: values are nested deeper than 100 levels",
		"{\"" + deep + "\": 1, /* " + deep + " */ // " + deep: "1:2: unknown key \"" + deep + "\" in the policy",
	} {
		if strings.HasPrefix(source, "{") {
			source += "\n}"
		}
		if _, err := Parse([]byte(source)); err == nil || err.Error() != want {
			t.Errorf("%.20q...: got %v, want %v", source, err, want)
		}
	}
}

// A valid file has a warning for each entry without effect.
func TestWarnings(t *testing.T) {
	source,
		marks := unmark(
		`{"acls": [], «1»"ssh": [{"action": "accept"}], «2»"disableIPv4": true, «3»"postures": {}, "autoApprovers": {«4»"services": {}}}`)
	p, err := Parse([]byte(source))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`"ssh" has no effect: no SSH access is given by the policy`,
		`"disableIPv4" has no effect: nodes have addresses of both families`,
		`"postures" has no effect: nothing can refer to a posture`,
		`"services" has no effect: nodes cannot advertise services`,
	}
	got := p.Warnings()
	if len(got) != len(want) {
		t.Fatalf("got %v, want %d", got, len(want))
	}
	for i := range got {
		if got[i].Text != want[i] || !marks[[2]int{got[i].Line, got[i].Column}] {
			t.Errorf("got %v, want %q", got[i], want[i])
		}
	}
	p, err = Parse([]byte("{}"))
	if err != nil || len(p.Warnings()) != 1 || p.Warnings()[0].String() != `1:1: there are neither "acls" nor "grants": `+
		`nothing is allowed, which cuts the network; other servers take this for a policy that allows everything` {
		t.Errorf("got %v, %v", p.Warnings(), err)
	}
	if p = nil; p.Warnings() != nil {
		t.Error("no policy has warnings")
	}
}

// No input makes the parser panic. A policy that parses can be compiled; otherwise the error names
// a place.
func FuzzParse(f *testing.F) {
	for _, file := range []string{"testdata/reach.txt", "testdata/problems.txt"} {
		for _, parts := range sections(f, file) {
			source, _ := unmark(parts[0])
			f.Add([]byte(source))
		}
	}
	f.Add([]byte(testedPolicy))
	f.Add([]byte(owningPolicy))
	f.Fuzz(func(t *testing.T, source []byte) {
		p, err := Parse(source)
		if err != nil {
			problems, ok := errors.AsType[Problems](err)
			if !ok || len(problems) == 0 {
				t.Fatalf("got %v", err)
			}
			lines := strings.Split(string(source)+"\n", "\n")
			for _, p := range problems {
				if p.Line < 1 || p.Line > len(lines) || p.Column < 1 || p.Column > len(lines[p.Line-1])+1 {
					t.Errorf("%v: there is no such place", p)
				}
			}
			return
		}
		nodes := network()
		c := p.Compile(nodes)
		for _, n := range nodes {
			c.MaySee(n.ID, 1)
			if c.Rules(n.ID) == nil {
				t.Error("nil rules")
			}
			c.Sum(n.ID)
			p.TagAllowed(n.User, "tag:db")
			p.Approves(n, netip.PrefixFrom(n.Addrs[0], 24))
		}
		if err := p.Check(nodes); err != nil && len(err.(Problems)) == 0 {
			t.Error("an error without problems")
		}
	})
}
