package policy

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// Every mistake is reported with its place and what was written there. The place of each is marked in the source by the
// marks «1», «2», ... that are taken out before it is read; the reports have to come in that order and none besides.
func TestProblems(t *testing.T) {
	for name, c := range map[string]struct {
		source string
		want   []string
	}{
		"empty":          {"«1»", []string{"the file is empty; {} is a policy that allows nothing"}},
		"only a comment": {"«1»// nothing", []string{"the file is empty; {} is a policy that allows nothing"}},
		"syntax":         {"{\n\t\"acls\": [«1»}\n", []string{"invalid character '}' at start of value"}},
		"cut off":        {"{\n\t\"acls\": [\n«1»", []string{"parsing value: unexpected EOF"}},
		"two values":     {"{} «1»{}", []string{"invalid character '{' after top-level value"}},
		"not an object":  {"«1»[]", []string{"the policy must be an object, not a list"}},
		"unknown keys": {
			`{«1»"acl": [], "acls": [{"action": "accept", "src": [], "dst": [], «2»"ports": []}], "autoApprovers": {«3»"route": {}}}`,
			[]string{`unknown key "acl" in the policy`, `unknown key "ports" in an entry of "acls"`, `unknown key "route" in "autoApprovers"`},
		},
		"twice": {
			`{"groups": {"group:a": [], «1»"group:a": []}, "acls": [], «2»"ACLs": []}`,
			[]string{`"group:a" is there twice`, `"acls" is there twice`},
		},
		"wrong types": {
			`{"acls": «1»{}, "groups": {"group:a": «2»"alice@", "group:b": [«3»7]}, "hosts": {"a": «4»null}, "grants": [«5»true], "tests": «6»"x"}`,
			[]string{
				`"acls" must be a list, not an object`, `group "group:a" must be a list, not the string "alice@"`,
				`an element of group "group:b" must be a string, not the number 7`, `host "a" must be a string, not null`,
				`an entry of "grants" must be an object, not true`, `"tests" must be a list, not the string "x"`,
			},
		},
		"missing": {
			`{"acls": [«1»{"src": []}], "grants": [«2»{}], "tests": [«3»{}]}`,
			[]string{
				`an entry of "acls" has no "action"`, `an entry of "acls" has no "dst"`, `an entry of "grants" has no "src"`,
				`an entry of "grants" has no "dst"`, `an entry of "grants" has neither "ip" nor "app"`, `an entry of "tests" has no "src"`,
			},
		},
		"groups": {
			`{"groups": {«1»"dev": [], "group:a": [«2»"group:b", «3»"tag:x", «4»"", «5»"*", «6»"100.64.0.1"]}}`,
			[]string{
				`"dev" is no name of a group: it must begin with "group:"`, `"group:b" in "group:a": groups cannot contain groups`,
				`"tag:x" in "group:a" is no user`, `"" in "group:a" is no user`, `"*" in "group:a" is no user`, `"100.64.0.1" in "group:a" is no user`,
			},
		},
		"hosts": {
			`{"hosts": {"a": «1»"10.0.0.1/8", "b": «2»"b.example.com", «3»"c@": "1.1.1.1", "d": «4»"fe80::1%eth0", "e": «5»"1.2.3.4/33"}}`,
			[]string{
				`host "a": "10.0.0.1/8" has bits set behind its length: the prefix is "10.0.0.0/8"`,
				`host "b": "b.example.com" is neither an address nor a prefix`,
				`"c@" is no name of a host: it must not be empty, an address, or contain any of "@:/*," or space`,
				`host "d": "fe80::1%eth0" is neither an address nor a prefix`, `host "e": "1.2.3.4/33" is neither an address nor a prefix`,
			},
		},
		"owners": {
			`{"tagOwners": {«1»"web": [], «2»"tag:1": [], "tag:a": [«3»"group:x", «4»"tag:y", «5»"autogroup:admin", «6»"*", «7»"autogroup:self"]}}`,
			[]string{
				`"web" is no tag: it must be "tag:", a letter, and then letters, digits and dashes`,
				`"tag:1" is no tag: it must be "tag:", a letter, and then letters, digits and dashes`,
				`"group:x" is not among the groups`, `"tag:y" is not among the tagOwners`,
				`"autogroup:admin" is not supported: users have no roles; use a group`,
				`"*" is neither a user nor a group nor a tag`, `"autogroup:self" has no meaning here`,
			},
		},
		"approvers": {
			`{"autoApprovers": {"exitNode": [«1»"tag:x"], "routes": {«2»"10.0.0.0": «3»"alice@", «4»"all": []}}}`,
			[]string{
				`"tag:x" is not among the tagOwners`, `approvers of "10.0.0.0" must be a list, not the string "alice@"`,
				`route: "all" is neither an address nor a prefix`,
			},
		},
		"sources": {
			`{"acls": [{"action": "accept", "dst": [], "src": [«1»"alice", «2»"group:x", «3»"tag:x", «4»"autogroup:internet",
				«5»"autogroup:nonroot", «6»"autogroup:x", «7»"10.0.0.1/8", «8»"", «9»"*@example.com"]}]}`,
			[]string{
				`"alice" is neither an address nor among the hosts; a user is written "alice@"`, `"group:x" is not among the groups`,
				`"tag:x" is not among the tagOwners`, `"autogroup:internet" has no meaning here`,
				`"autogroup:nonroot" is for SSH rules, which are not supported`, `"autogroup:x" is not supported`,
				`"10.0.0.1/8" has bits set behind its length: the prefix is "10.0.0.0/8"`,
				`"" is neither an address nor among the hosts; a user is written "@"`, `"*@example.com" is no user`,
			},
		},
		"destinations": {
			`{"acls": [{"action": "accept", "src": ["*"], "dst": [«1»"*", «2»"*:", «3»"*:65536", «4»"*:80-70", «5»"*:80,x", «6»"autogroup:self",
				«7»"[::1:80", «8»"db:80", «9»"*:-1"]}]}`,
			[]string{
				`"*" has no ports: it must be HOST:PORTS`, `"*:": "" is no port: it must be a number up to 65535, a range, or "*"`,
				`"*:65536": "65536" is no port: it must be a number up to 65535, a range, or "*"`,
				`"*:80-70": "80-70" is no range of ports: its end comes first`,
				`"*:80,x": "x" is no port: it must be a number up to 65535, a range, or "*"`,
				`"autogroup:self" has no ports: it must be HOST:PORTS`, `"[::1:80" has a bracket that does not close`,
				`"db" is neither an address nor among the hosts; a user is written "db@"`,
				`"*:-1": "-1" is no port: it must be a number up to 65535, a range, or "*"`,
			},
		},
		"actions and protocols": {
			`{"acls": [
				{"action": «1»"deny", "proto": «2»"htp", "src": [], "dst": []},
				{"action": "accept", "proto": «3»"256", "src": [], "dst": []},
				{"action": "accept", "proto": «4»6, "src": [], "dst": []},
				{"action": "accept", "proto": "icmp", "src": [], "dst": [«5»"*:80"]},
			]}`,
			[]string{
				`action "deny" is not supported: rules can only "accept"`,
				`"htp" is no protocol: it must be a name like "tcp" or a number from 1 to 255`,
				`"256" is no protocol: it must be a name like "tcp" or a number from 1 to 255`,
				`"proto" must be a string, not the number 6`, `"*:80": the protocol has no ports; write "*"`,
			},
		},
		"grants": {
			`{"grants": [{"src": ["*"], "dst": [«1»"*:80"], "ip": [«2»"tcp", «3»":80", «4»"gre:80", «5»"tcp:"], "app": {«6»"": [], "x": «7»{}}}]}`,
			[]string{
				`"*:80" is neither an address nor among the hosts; a user is written "*:80@"`,
				`"tcp" is no port: it must be a number up to 65535, a range, or "*"`,
				`"?" is no protocol: it must be a name like "tcp" or a number from 1 to 255`,
				`"gre:80": the protocol has no ports; write "*"`, `"" is no port: it must be a number up to 65535, a range, or "*"`,
				`a capability has no name`, `capability x must be a list, not an object`,
			},
		},
		"what would allow more than it should": {
			`{"acls": [{"action": "accept", "src": [], "dst": [], «1»"srcPosture": []}], «2»"defaultSrcPosture": [],
				"grants": [{"src": [], "dst": [], "ip": [], «3»"via": [], «4»"srcPosture": []}]}`,
			[]string{
				`"srcPosture" is not supported: without it the rule would allow more than it should`,
				`"defaultSrcPosture" is not supported: without it all rules would allow more than they should`,
				`"via" is not supported: without it the rule would allow more than it should`,
				`"srcPosture" is not supported: without it the rule would allow more than it should`,
			},
		},
		"own nodes of what has no owner": {
			`{"acls": [«1»{"action": "accept", "src": ["100.64.0.1"], "dst": ["autogroup:self:*"]}]}`,
			[]string{`"autogroup:self" needs sources that are users, groups, "autogroup:member" or "*"`},
		},
		"tests": {
			`{"hosts": {"lan": "10.0.0.0/8"}, "tests": [
				{"src": «1»"lan", "accept": [«2»"alice@", «3»"alice@:80-90", «4»"*:80"], "deny": [«5»"lan:80"]},
				{"src": «6»"autogroup:member", "proto": "icmp", "accept": ["alice@:*", «7»"alice@:x"], «8»"srcPostureAttrs": {}},
			]}`,
			[]string{
				`"lan" is more than one address`, `"alice@" has no ports: it must be HOST:PORTS`,
				`"alice@:80-90": "80-90" is not a single port`,
				`"*" is neither an address nor among the hosts; a user is written "*@"`, `"lan" is more than one address`,
				`"autogroup:member" has no meaning here`, `"alice@:x": "x" is not a single port`,
				`"srcPostureAttrs" is not supported: no rule looks at postures`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			source, marks := unmark(c.source)
			p, err := Parse([]byte(source))
			problems, ok := errors.AsType[Problems](err)
			if p != nil || !ok {
				t.Fatalf("got %v, %v; want problems", p, err)
			}
			if len(problems) != len(c.want) {
				t.Fatalf("got %d problems, want %d:\n%v", len(problems), len(c.want), err)
			}
			for i, got := range problems {
				if got.Text != c.want[i] {
					t.Errorf("problem %d: got %q, want %q", i, got.Text, c.want[i])
				}
				if !marks[[2]int{got.Line, got.Column}] {
					t.Errorf("%v: its place is not marked", got)
				}
			}
		})
	}
}

// unmark takes the marks out of a source and returns their places.
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

// The error names all problems, a line each.
func TestErrorText(t *testing.T) {
	_, err := Parse([]byte("{\n  \"acls\": 1,\n  \"x\": 2\n}"))
	want := "2:11: \"acls\" must be a list, not the number 1\n3:3: unknown key \"x\" in the policy"
	if err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestTooLong(t *testing.T) {
	if _, err := Parse(make([]byte, maxSize+1)); err == nil || err.Error() != "1:1: the file has 1048577 bytes, more than 1048576" {
		t.Errorf("got %v", err)
	}
}

// A million brackets end in an error, however they are hidden from whoever counts them, and not with the stack.
func TestTooDeep(t *testing.T) {
	deep := strings.Repeat("[", 200)
	for source, want := range map[string]string{
		strings.Repeat("[", maxSize):                          "1:101: values are nested deeper than 100 levels",
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

// What has no effect is said, once the file is good.
func TestWarnings(t *testing.T) {
	source, marks := unmark(`{"acls": [], «1»"ssh": [{"action": "accept"}], «2»"nodeAttrs": [], «3»"postures": {}, "autoApprovers": {«4»"services": {}}}`)
	p, err := Parse([]byte(source))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`"ssh" has no effect: no SSH access is given by the policy`, `"nodeAttrs" has no effect: nodes get no attributes from the policy`,
		`"postures" has no effect: nothing can refer to a posture`, `"services" has no effect: nodes cannot advertise services`,
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
	if err != nil || len(p.Warnings()) != 1 || p.Warnings()[0].String() != `1:1: there are neither "acls" nor "grants": nothing is allowed` {
		t.Errorf("got %v, %v", p.Warnings(), err)
	}
	if p = nil; p.Warnings() != nil {
		t.Error("no policy has warnings")
	}
}

// Whatever is read, nothing panics; what is a policy can be applied, and what is not says where.
func FuzzParse(f *testing.F) {
	reach, err := os.ReadFile("testdata/reach.txt")
	if err != nil {
		f.Fatal(err)
	}
	for section := range strings.SplitSeq(string(reach), "\n== ") {
		_, rest, _ := strings.Cut(section, "\n")
		source, _, _ := strings.Cut(rest, "\n--\n")
		f.Add([]byte(source))
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
