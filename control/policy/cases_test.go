package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Policy files as users of this format and its relatives write them. For each the test knows why it
// is refused, or its warnings and one effect that shows that it was understood.
func TestCases(t *testing.T) {
	ann := Node{ID: 1, User: "ann@example.com", Addrs: []netip.Addr{addr("100.64.0.1")}}
	db := Node{ID: 2, Tags: []string{"tag:db"}, Addrs: []netip.Addr{addr("100.64.0.2")}}
	exit := Node{ID: 3, Tags: []string{"tag:exit-eu"}, Addrs: []netip.Addr{addr("100.64.0.3")}, ExitNode: true}
	us := Node{ID: 4, Tags: []string{"tag:exit-us"}, Addrs: []netip.Addr{addr("100.64.0.4")}, ExitNode: true,
		Routes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	nodes := []Node{ann, db, exit, us, {ID: 5, User: "ann", Addrs: []netip.Addr{addr("100.64.0.5")}}}
	none, usual := "", `[{"SrcIPs":["10.0.0.0/8","100.64.0.0/10","fd7a:115c:a1e0::/48"],"DstPorts":[{"IP":"*",`
	for _, c := range []struct {
		file, refused, warned string
		node                  int64
		rules                 string // of the node; a part
	}{
		{"p01-legacy-users-ports.json", none, `1:72: "users" is the former name of "src"` + "\n" +
			`1:94: "ports" is the former name of "dst"`,
			2, `[{"SrcIPs":["100.64.0.1"],"DstPorts":[{"IP":"*","Ports":{"First":22,"Last":22}}]}]`},
		{"p02-autogroup-admin-owner.json",
			`1:25: "autogroup:admin" is not supported: users have no roles here; write a group with the users, such as "group:admin"`, none, 0, none},
		{"p03-autogroup-members-plural.json", none, `1:36: "autogroup:members" is read as "autogroup:member"`,
			1, `[{"SrcIPs":["100.64.0.1"],"DstPorts":[{"IP":"100.64.0.1","Ports":`},
		{"p04-hash-metadata.json", none, none, 2, `[{"SrcIPs":["100.64.0.5"],"DstPorts":[{"IP":"*",`},
		{"p06-only-ssh.json", none,
			`1:1: there are neither "acls" nor "grants": nothing is allowed, which cuts the network; ` +
				`other servers take this for a policy that allows everything` + "\n" +
				`1:2: "ssh" has no effect: no SSH access is given by the policy`, 2, `[]`},
		{"p07-bom.json", none, none, 2, usual},
		{"p08-danger-all.json", none, none, 4, `[{"SrcIPs":["*"],"DstPorts":[{"IP":"10.0.0.0/8",`},
		{"p09-randomize-port.json", none, none, 2, usual},
		{"p10-nodeattrs.json", none, none, 2, usual},
		{"p11-via.json", none, none, 3, `[{"SrcIPs":["100.64.0.1","100.64.0.5"],"DstPorts":[{"IP":"1.0.0.0-9.255.255.255",`},
		{"p11-via.json", none, none, 4, `[]`},
		{"p12-ipset.json", none, none, 4, `"DstPorts":[{"IP":"10.114.32.0/24",`},
		{"p14-user-domain-wildcard.json", `1:36: "user:*@example.com": users cannot be chosen by their domain; ` +
			`write "autogroup:member", or a group with its users`, none, 0, none},
		{"p15-members-case.json", none, none, 2,
			`[{"SrcIPs":["100.64.0.1"],"DstPorts":[{"IP":"*","Ports":{"First":443,"Last":443}}]}]`},
		{"p18-tag-star.json",
			`1:15: "tag:egress-*" is not a tag: it must be "tag:", a letter, and then letters, digits and dashes; ` +
				`patterns are not supported, list each tag`, none, 0, none},
		{"p19-hostprefix.json", `1:76: "host:prod": hosts are written without a prefix; write "prod"`, none, 0, none},
		{"p20-protonum.json", none, none, 2, `"DstPorts":[{"IP":"*","Ports":{"First":443,"Last":443}}],"IPProto":[6]}]`},
		{"p21-svc.json",
			`1:32: "svc:web": there are no services here; name the tag or the address of the nodes that serve it`, none, 0,
			none},
		{"p22-shared.json",
			`1:36: "autogroup:shared": no nodes are shared with other networks here; name users, groups or tags`, none, 0, none},
		{"p26-approver.json",
			`1:43: "autogroup:admin" is not supported: users have no roles here; write a group with the users, such as "group:admin"` + "\n" +
				`1:75: "*" has no meaning here; write "autogroup:member" and "autogroup:tagged"`, none, 0, none},
		{"p27-check.json",
			`1:20: action "check" is not supported: rules can only "accept", and "check" asks for a login before SSH, ` +
				`which is not supported; write "accept" or leave the entry out`, none, 0, none},
		{"p28-nested.json", `1:23: "group:b" in "group:a": groups cannot contain groups; list its users`, none, 0, none},
		{"g01-peer-relay.json", none, none, 2, `[]`},
		{"b01-tests-at-boot.hujson", none, none, 2, `[]`},
	} {
		text, err := os.ReadFile("testdata/cases/" + c.file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(text)
		if c.refused != "" || err != nil {
			if err == nil || err.Error() != c.refused {
				t.Errorf("%s: got the problems\n%v\nwant\n%s", c.file, err, c.refused)
			}
			continue
		}
		if got := Problems(p.Warnings()).Error(); got != c.warned {
			t.Errorf("%s: got the warnings\n%s\nwant\n%s", c.file, got, c.warned)
		}
		rules, err := json.Marshal(p.Compile(nodes).Rules(c.node))
		if err != nil || !strings.Contains(string(rules), c.rules) {
			t.Errorf("%s: node %d has the rules %s, %v, want %s", c.file, c.node, rules, err, c.rules)
		}
	}
	listed, err := os.ReadDir("testdata/cases")
	if err != nil || len(listed) != 23 {
		t.Errorf("%d cases, %v: the table is for 23", len(listed), err)
	}
}

// Nodes get exactly the attributes that the policy gives them.
func TestAttributes(t *testing.T) {
	for source, want := range map[string]string{
		`{"randomizeClientPort": true, "acls": []}`:                                                          `{"randomize-client-port":null}`,
		`{"randomizeClientPort": false, "acls": []}`:                                                         `null`,
		`{"nodeAttrs": [{"target": ["*"], "attr": ["magicdns-aaaa", "randomize-client-port"]}], "acls": []}`: `{"magicdns-aaaa":null,"randomize-client-port":null}`,
		`{"nodeAttrs": [{"target": ["tag:db"], "attr": ["a"]}, {"target": ["carol@", "100.64.0.1"], "attr": ["b"]},
			{"target": ["autogroup:member"], "app": {"x.com/c": [1]}}, {"target": ["autogroup:member"], "app": {"x.com/c": [2]}}],
			"tagOwners": {"tag:db": []}, "acls": []}`: `{"b":null,"x.com/c":[1,2]}`,
	} {
		p := parse(t, source)
		got, err := json.Marshal(p.Compile(network()).Attributes(8))
		if err != nil || string(got) != want || len(p.Warnings()) != 0 {
			t.Errorf("%s: got %s, %v, want %s; warned %v", source, got, err, want, p.Warnings())
		}
	}
}

// A rule with "via" makes its sources use the routers that it names and no others. It does not
// affect other nodes.
func TestVia(t *testing.T) {
	route, inet := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("0.0.0.0/0")
	router := func(id int64, tag string) Node {
		return Node{ID: id, Tags: []string{tag}, Routes: []netip.Prefix{route}, ExitNode: true}
	}
	nodes := []Node{{ID: 1, User: "ann"}, {ID: 2, User: "bob"}, router(3, "tag:eu"), router(4, "tag:us")}
	c := parse(t, `{"tagOwners": {"tag:eu": []}, "grants": [
		{"src": ["*"], "dst": ["10.0.0.0/8", "autogroup:internet"], "ip": ["*"]},
		{"src": ["ann@"], "dst": ["10.0.0.0/8", "autogroup:internet"], "ip": ["*"], "via": ["tag:eu"]},
	]}`).Compile(nodes)
	for _, p := range []netip.Prefix{route, inet} {
		for _, q := range []struct {
			id, router int64
			may, led   bool
		}{{1, 3, true, true}, {1, 4, false, false}, {2, 3, true, false}, {2, 4, true, false}} {
			if got := c.MayUse(q.id, q.router, p); got != q.may {
				t.Errorf("%d may use %s of %d: got %v", q.id, p, q.router, got)
			}
			if got := c.Steered(q.id, q.router, p); got != q.led {
				t.Errorf("%d is led to %s by %d: got %v", q.id, p, q.router, got)
			}
		}
	}
}

// A grant of only capabilities makes both ends see each other and allows no packets. Peer relays
// and nodes that share files are told whom they serve.
func TestAppGrants(t *testing.T) {
	text, err := os.ReadFile("testdata/cases/g01-peer-relay.json")
	if err != nil {
		t.Fatal(err)
	}
	nodes := []Node{
		{ID: 1, Tags: []string{"tag:srv"}, Addrs: []netip.Addr{addr("100.64.0.1")}},
		{ID: 2, Tags: []string{"tag:db"}, Addrs: []netip.Addr{addr("100.64.0.2")}},
		{ID: 3, User: "ann", Addrs: []netip.Addr{addr("100.64.0.3")}},
		{ID: 4, User: "ann", Addrs: []netip.Addr{addr("100.64.0.4")}},
		{ID: 5, User: "bob", Addrs: []netip.Addr{addr("100.64.0.5")}},
	}
	rules := func(c *Compiled, id int64) string {
		text, err := json.Marshal(c.Rules(id))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	c := parse(t, string(text)).Compile(nodes)
	if !c.MaySee(1, 2) || !c.MaySee(2, 1) || c.MaySee(1, 3) || c.MaySee(2, 3) {
		t.Error("the wrong nodes see each other")
	}
	const relay = `[{"SrcIPs":["100.64.0.2"],"CapGrant":[{"Dsts":["100.64.0.1/32"],"CapMap":{"tailscale.com/cap/relay":[]}}]}]`
	const target = `[{"SrcIPs":["100.64.0.1"],"CapGrant":[{"Dsts":["100.64.0.2/32"],"CapMap":{"tailscale.com/cap/relay-target":null}}]}]`
	if got := []string{rules(c, 1), rules(c, 2), rules(c, 3)}; !slices.Equal(got, []string{relay, target, "[]"}) {
		t.Errorf("got %s\n%s\n%s", got[0], got[1], got[2])
	}
	c = parse(t,
		`{"grants": [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "app": {"tailscale.com/cap/drive": [{"a": 1}]}}]}`).Compile(nodes)
	const shared = `[{"SrcIPs":["100.64.0.3-100.64.0.4"],"CapGrant":[{"Dsts":["100.64.0.3/32"],"CapMap":{"tailscale.com/cap/drive":[{"a":1}]}}]},` +
		`{"SrcIPs":["100.64.0.3-100.64.0.4"],"CapGrant":[{"Dsts":["100.64.0.3/32"],"CapMap":{"tailscale.com/cap/drive-sharer":null}}]}]`
	if got := rules(c, 3); got != shared || !c.MaySee(3, 4) || c.MaySee(3, 5) {
		t.Errorf("own nodes: got %s", got)
	}
	c = parse(t, `{"grants": [{"src": ["*"], "dst": ["10.0.0.0/8"], "app": {"x.com/a": []}}]}`).Compile(
		append(nodes, Node{ID: 6, Addrs: []netip.Addr{addr("100.64.0.6")},
			Routes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}))
	if c.MaySee(1, 6) {
		t.Error("a router is seen for a capability that no node has")
	}
}

// Each address family has an ICMP of its own.
func TestProtocolsOfICMP(t *testing.T) {
	for name, want := range map[string]string{"icmp": "[1]", "ipv6-icmp": "[58]"} {
		c := parse(t, `{"grants": [{"src": ["*"], "dst": ["carol@"], "ip": ["`+name+`:*"]}]}`).Compile(network())
		if got, _ := json.Marshal(c.Rules(8)[0].IPProto); string(got) != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// In a policy that is in force, an entry that is refused only now keeps its effect and causes a
// warning.
func TestParseInForce(t *testing.T) {
	const once = `{"acls": [{"action": "accept", "src": ["*"], "dst": ["autogroup:self:22"]}],
		"grants": [{"src": ["*"], "dst": ["*"], "ip": []}]}`
	if _, err := Parse([]byte(once)); err == nil {
		t.Error("it is accepted anew")
	}
	p, err := ParseInForce([]byte(once))
	if err != nil || len(p.Warnings()) != 2 {
		t.Fatalf("got %v, %v", p.Warnings(), err)
	}
	checkReach(t, p.Compile(network()), expand(t, "1 2 > 1 2: tcp/22 ping"))
	const leftOutOnce = `{"nodeAttrs": [{"target": ["autogroup:admin"], "attr": ["a"]}, {"target": ["*"], "attr": ["b"]}],
		"ipsets": {"x": 7}, "randomizeClientPort": "no", "acls": []}`
	if p, err = ParseInForce([]byte(leftOutOnce)); err != nil || len(p.Warnings()) != 6 {
		t.Errorf("sections that older versions left out: got %v, %v", p.Warnings(), err)
	}
	if _, err := ParseInForce([]byte(`{"acls": 7}`)); err == nil {
		t.Error("what was never accepted is in force")
	}
}

// The explanation of each entry says what it does and to how many nodes it applies.
func TestExplain(t *testing.T) {
	p := parse(t, `{
	"groups": {"group:dev": ["alice@", "carol@"]},
	"hosts": {"printer": "10.20.0.9"},
	"ipsets": {"ipset:x": ["add 10.20.0.0/24"]},
	"tagOwners": {"tag:web": ["group:dev"], "tag:db": []},
	"autoApprovers": {"exitNode": ["group:dev"], "routes": {"10.0.0.0/8": ["tag:web"]}},
	"acls": [{"action": "accept", "proto": "tcp", "src": ["group:dev"], "dst": ["tag:web:80", "autogroup:self:22"]}],
	"grants": [
		{"src": ["*"], "dst": ["ipset:x"], "ip": ["tcp:80", "53"], "via": ["tag:web"]},
		{"src": ["tag:db"], "dst": ["tag:web"], "app": {"tailscale.com/cap/relay": []}},
	],
	"ssh": [],
	"tests": [{"src": "alice@", "accept": ["tag:web:80"]}],
}`)
	want := []string{
		`2:13: names a group of 2 users`,
		`3:12: names 10.20.0.9`,
		`4:13: names 10.20.0.0/24`,
		`5:16: lets group:dev give nodes this tag (now on 1 node)`,
		`5:42: lets nobody give nodes this tag (now on 1 node)`,
		`6:20: approves exit nodes of group:dev`,
		`6:58: approves routes within it that nodes of tag:web advertise`,
		`7:11: lets group:dev reach tag:web:80, autogroup:self:22 by protocol tcp (now 3 nodes to 5 nodes)`,
		`9:3: lets * reach ipset:x by tcp:80, 53, only through nodes with tag:web (now 8 nodes to 0 nodes)`,
		`10:3: gives tag:db at tag:web tailscale.com/cap/relay; in the other direction, tailscale.com/cap/relay-target (now 1 node to 1 node)`,
		`12:2: has no effect: no SSH access is given by the policy`,
		`13:12: tests that alice@ reaches tag:web:80`,
	}
	var got []string
	for _, e := range p.Explain(network()) {
		got = append(got, e.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if p = nil; p.Explain(nil) != nil {
		t.Error("no policy explains itself")
	}
}

// Every entry without effect causes a warning.
func TestWarnedOfNoEffect(t *testing.T) {
	for source, want := range map[string]string{
		`{"acls": [{"action": "accept", "src": [], "dst": ["*:*"]}]}`:                                     `1:11: the entry has no effect: its "src" is empty`,
		`{"grants": [{"src": ["*"], "dst": [], "ip": ["*"]}]}`:                                            `1:13: the entry has no effect: its "dst" is empty`,
		`{"groups": {"group:a": []}, "acls": [{"action": "accept", "src": ["group:a"], "dst": ["*:*"]}]}`: `1:67: "group:a" has no users: here it stands for nobody`,
		`{"ipsets": {"ipset:a": []}, "acls": []}`:                                                         `1:13: "ipset:a" is empty: it stands for nothing`,
		`{"acls": [], "tests": [{"src": "ann@"}]}`:                                                        `1:24: the test has no effect: it says neither what to "accept" nor what to "deny"`,
		`{"acls": [], "nodeAttrs": [{"target": [], "attr": ["a"]}]}`:                                      `1:28: the entry has no effect: it gives nothing, or to nobody`,
		`{"acls": [], "nodeAttrs": [{"target": ["*"], "attr": ["a"], "ipPool": []}]}`:                     `1:61: "ipPool" has no effect: nodes get the next free address`,
		`{"acls": [], "autoApprovers": {"exitNode": []}}`:                                                 `1:32: "exitNode" has no effect: it is empty`,
		`{"acls": [], "autoApprovers": {"routes": {"10.0.0.0/8": []}}}`:                                   `1:43: "10.0.0.0/8" has no effect: it is empty`,
		`{"acls": [{"action": "accept", "src": ["autogroup:self:x"], "dst": []}]}`:                        ``,
		`{"grants": [{"src": ["*"], "dst": ["*"], "ip": [], "app": {"x.com/a": []}}]}`:                    `1:42: "ip" has no effect: it is empty`,
		`{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "app": {}}]}`:                              `1:55: "app" has no effect: it is empty`,
		`{"grants": [{"src": ["*"], "dst": ["10.0.0.0/8"], "app": {"x.com/a": []}}]}`:                     `1:51: "app" has no effect at 10.0.0.0/8 unless nodes have addresses there: capabilities are of nodes`,
	} {
		p, err := Parse([]byte(source))
		if want == "" {
			if err == nil {
				t.Errorf("%s is accepted", source)
			}
			continue
		}
		if err != nil || Problems(p.Warnings()).Error() != want {
			t.Errorf("%s: got %v, %v, want %s", source, p.Warnings(), err, want)
		}
	}
}

// Parsing takes time linear in the size of the file, also if it names very many users.
func TestManyUsers(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"acls": [], "groups": {"group:a": [`)
	for i := range 40_000 {
		fmt.Fprintf(&b, `"u%d@",`, i)
	}
	b.WriteString(`]}}`)
	began := time.Now()
	p := parse(t, b.String())
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if n := len(p.UnknownUsers(func(string) bool { return false })); n != 40_000 {
		t.Errorf("%d users are unknown", n)
	}
}
