package policy

import (
	"net/netip"
	"strings"
	"testing"
)

func parse(t testing.TB, source string) *Policy {
	t.Helper()
	p, err := Parse([]byte(source))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const owningPolicy = `{
	"groups": {"group:ops": ["alice@", "bob@example.com"]},
	"tagOwners": {
		"tag:ops": ["group:ops"], "tag:all": ["autogroup:member"], "tag:carol": ["carol"],
		"tag:deploy": ["tag:ops"], "tag:nobody": [],
	},
	"autoApprovers": {
		"exitNode": ["tag:deploy", "carol@"],
		"routes": {
			"10.0.0.0/8": ["group:ops"],
			"10.20.0.0/16": ["tag:deploy"],
			"fd00::/8": ["autogroup:member"],
			"0.0.0.0/0": ["tag:nobody"],
		},
	},
	"acls": [],
}`

func TestTagAllowed(t *testing.T) {
	p := parse(t, owningPolicy)
	for question, want := range map[string]bool{
		"alice tag:ops": true, "alice@ tag:ops": true, "bob@example.com tag:ops": true, "bob tag:ops": false,
		"carol tag:ops": false,
		"carol tag:all": true, " tag:all": false, "carol tag:carol": true, "carol@ tag:carol": true, "alice tag:carol": false,
		"tag:ops tag:deploy": true, "tag:all tag:deploy": false, "alice tag:deploy": false, "tag:ops tag:all": false,
		"alice tag:nobody": false, "alice tag:unknown": false, "alice ": false,
	} {
		user, tag, _ := strings.Cut(question, " ")
		if got := p.TagAllowed(user, tag); got != want {
			t.Errorf("%q may give %q: got %v, want %v", user, tag, got, want)
		}
	}
	if p = nil; p.TagAllowed("alice", "tag:ops") {
		t.Error("without a policy a tag is allowed")
	}
}

// A tag is owned if the policy lists it, even with no owners. Without a policy every tag is owned.
func TestTagOwned(t *testing.T) {
	p := parse(t, owningPolicy)
	for tag, want := range map[string]bool{"tag:ops": true, "tag:nobody": true, "tag:unknown": false, "": false} {
		if got := p.TagOwned(tag); got != want {
			t.Errorf("%q has an owner: got %v, want %v", tag, got, want)
		}
	}
	if p = nil; !p.TagOwned("tag:ops") {
		t.Error("a tag needs an owner without a policy")
	}
}

func TestApproves(t *testing.T) {
	p := parse(t, owningPolicy)
	alice, carol := Node{User: "alice"}, Node{User: "carol"}
	deploy, nobody := Node{User: "alice", Tags: []string{"tag:deploy"}}, Node{Tags: []string{"tag:nobody"}}
	for _, c := range []struct {
		node  Node
		route string
		want  bool
	}{
		{alice, "10.0.0.0/8", true}, {alice, "10.1.2.0/24", true}, {alice, "10.1.2.3/32", true}, {alice, "0.0.0.0/0", false},
		{alice, "8.0.0.0/7", false}, {alice, "11.0.0.0/8", false}, {alice, "10.20.0.0/16", true},
		{carol, "10.0.0.0/8", false},
		{deploy, "10.20.30.0/24", true}, {deploy, "10.0.0.0/8", false}, {deploy, "fd00::/8", false},
		{carol, "fd00:1::/32", true}, {carol, "::/0", true}, {carol, "0.0.0.0/0", true}, {deploy, "0.0.0.0/0", true},
		{nobody, "192.168.0.0/16", true}, {nobody, "0.0.0.0/0", false}, {nobody, "fd00::/8", false},
		{Node{}, "fd00::/8", false},
	} {
		if got := p.Approves(c.node, netip.MustParsePrefix(c.route)); got != c.want {
			t.Errorf("%s of %q %v: got %v, want %v", c.route, c.node.User, c.node.Tags, got, c.want)
		}
	}
	if p.Approves(carol, netip.Prefix{}) {
		t.Error("no route at all is approved")
	}
	if p = nil; p.Approves(carol, netip.MustParsePrefix("::/0")) {
		t.Error("without a policy a route is approved")
	}
}

const testedPolicy = `{
	"groups": {"group:dev": ["alice@", "dave@"], "group:none": []},
	"hosts": {"printer": "10.20.0.9", "nas": "192.168.9.9"},
	"tagOwners": {"tag:web": [], "tag:db": [], "tag:later": []},
	"acls": [
		{"action": "accept", "proto": "tcp", "src": ["group:dev"], "dst": ["tag:web:80", "printer:631", "autogroup:self:22"]},
		{"action": "accept", "src": ["tag:web"], "dst": ["tag:db:5432", "tag:later:80"]},
		{"action": "accept", "src": ["100.64.0.8"], "dst": ["tag:db:22", "autogroup:internet:443"]},
		{"action": "accept", "proto": "udp", "src": ["100.64.0.0/10"], "dst": ["nas:53"]},
	],
	"tests": [
		{"src": "alice@", "accept": ["tag:web:80", "printer:631", "alice@:22"], "deny": ["tag:db:5432", "bob@example.com:22", "carol@:22", "tag:web:443"]},
		{"src": "group:dev", "proto": "tcp", "accept": ["tag:web:80"], "deny": ["tag:db:80"]},
		{"src": "erin@", "deny": ["tag:web:80"]},
		{"src": "tag:web", "accept": ["tag:db:5432", "tag:later:80"], "deny": ["tag:web:80"]},
		{"src": "tag:later", "deny": ["tag:db:5432"]},
		{"src": "carol@", "accept": ["tag:db:22", "8.8.8.8:443", "nas:53"], "deny": ["8.8.8.8:80"]},
		{"src": "100.64.0.8", "accept": ["tag:db:22"], "deny": ["tag:web:22"]},
		{"src": "alice@", "proto": "udp", "accept": ["nas:53"], "deny": ["tag:web:80"]},
		{"src": "alice@", "proto": "icmp", "accept": ["tag:web:*"], "deny": ["tag:db:*"]},
	],
}`

// The function Check parses the file, runs its tests and explains its entries.
func TestCheckFile(t *testing.T) {
	report, err := Check([]byte(testedPolicy), network())
	if err != nil || len(report.Explained) == 0 {
		t.Errorf("got %+v, %v, want a report", report, err)
	}
	if _, err := Check([]byte(`{"acls": 1}`), nil); err == nil || !strings.Contains(err.Error(), "must be a list") {
		t.Errorf("a file with a mistake: got %v", err)
	}
	if _, err := Check([]byte(testedPolicy), nil); err == nil || !strings.Contains(err.Error(), "must reach") {
		t.Errorf("tests that fail: got %v", err)
	}
}

func TestCheck(t *testing.T) {
	p := parse(t, testedPolicy)
	if err := p.Check(network()); err != nil {
		t.Errorf("with nodes: %v", err)
	}
	// Without nodes the rules for 100.64.0.8 do not apply to carol: her stand-in has another address.
	want := `17:32: test: "carol@" must reach "tag:db:22", but does not` + "\n" +
		`17:45: test: "carol@" must reach "8.8.8.8:443", but does not`
	if err := p.Check(nil); err == nil || err.Error() != want {
		t.Errorf("without nodes: got\n%v\nwant\n%v", err, want)
	}
	if p = nil; p.Check(network()) != nil {
		t.Error("no policy has tests that fail")
	}
}

func TestCheckFails(t *testing.T) {
	p := parse(t, `{
	"groups": {"group:none": []},
	"tagOwners": {"tag:db": []},
	"acls": [{"action": "accept", "src": ["alice@"], "dst": ["tag:db:22"]}],
	"tests": [
		{"src": "alice@", "accept": ["tag:db:22", "tag:db:80"], "deny": ["tag:db:22"]},
		{"src": "group:none", "accept": ["tag:db:22"], "deny": ["tag:db:22"]},
		{"src": "frank@", "accept": ["tag:db:22"]},
		{"src": "alice@", "proto": "udp", "deny": ["tag:db:22"]},
		{"src": "alice@", "proto": "sctp", "accept": ["tag:db:22"]},
	]}`)
	want := strings.Join([]string{
		`6:45: test: "alice@" must reach "tag:db:80", but does not (from 100.64.0.1 to 100.64.0.5)`,
		`6:68: test: "alice@" must not reach "tag:db:22", but does (from 100.64.0.1 to 100.64.0.5)`,
		`7:36: test: "group:none" must reach "tag:db:22", but does not`,
		`8:32: test: "frank@" must reach "tag:db:22", but does not`,
		`9:46: test: "alice@" must not reach "tag:db:22", but does (from 100.64.0.1 to 100.64.0.5)`,
		`10:49: test: "alice@" must reach "tag:db:22", but does not (from 100.64.0.1 to 100.64.0.5)`,
	}, "\n")
	if err := p.Check(network()); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%v", err, want)
	}
}
