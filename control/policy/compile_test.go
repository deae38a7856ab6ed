package policy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ginnel/control"
)

// The rules of a node have as destinations only its own addresses, its approved routes and, at an
// exit node, the Internet. Adjacent source addresses are one range.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		name, source string
		node         int64
		want         string
	}{
		{"all", `{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`, 5,
			`[{"SrcIPs":["10.20.0.0/16","100.64.0.0/10","fd7a:115c:a1e0::/48"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}]`},
		{"none", `{}`, 5, `[]`},
		{"unknown node", `{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`, 99, `[]`},
		{"for another node", `{"acls": [{"action": "accept", "src": ["*"], "dst": ["carol@:80"]}]}`, 5, `[]`},
		{"sources without nodes", `{"acls": [{"action": "accept", "src": ["erin@"], "dst": ["carol@:80"]}]}`, 8, `[]`},
		{"sources side by side",
			`{"acls": [{"action": "accept", "proto": "tcp", "src": ["autogroup:member"], "dst": ["carol@:80,90-95"]}]}`, 8,
			`[{"SrcIPs":["100.64.0.1-100.64.0.3","100.64.0.8","fd7a:115c:a1e0::1-fd7a:115c:a1e0::3","fd7a:115c:a1e0::8"],` +
				`"DstPorts":[{"IP":"100.64.0.8","Ports":{"First":80,"Last":80}},{"IP":"100.64.0.8","Ports":{"First":90,"Last":95}},` +
				`{"IP":"fd7a:115c:a1e0::8","Ports":{"First":80,"Last":80}},{"IP":"fd7a:115c:a1e0::8","Ports":{"First":90,"Last":95}}],"IPProto":[6]}]`},
		{"sources as a prefix",
			`{"acls": [{"action": "accept", "proto": "47", "src": ["100.64.0.2", "100.64.0.3"], "dst": ["100.64.0.8:*"]}]}`, 8,
			`[{"SrcIPs":["100.64.0.2/31"],"DstPorts":[{"IP":"100.64.0.8","Ports":{"First":0,"Last":65535}}],"IPProto":[47]}]`},
		{"part of a route",
			`{"acls": [{"action": "accept", "src": ["*"], "dst": ["10.0.0.0/8:1", "10.20.3.0/24:2", "10.21.0.0/16:3"]}]}`, 6,
			`[{"SrcIPs":["10.20.0.0/16","100.64.0.0/10","fd7a:115c:a1e0::/48"],"DstPorts":[{"IP":"10.20.0.0/16","Ports":{"First":1,"Last":1}},{"IP":"10.20.3.0/24","Ports":{"First":2,"Last":2}}]}]`},
		{"part of the Internet", `{"acls": [{"action": "accept", "src": ["*"], "dst": ["192.0.0.0/8:1"]}]}`, 7,
			`[{"SrcIPs":["10.20.0.0/16","100.64.0.0/10","fd7a:115c:a1e0::/48"],"DstPorts":[{"IP":"192.0.0.0-192.167.255.255","Ports":{"First":1,"Last":1}},{"IP":"192.169.0.0-192.255.255.255","Ports":{"First":1,"Last":1}}]}]`},
		{"capabilities",
			`{"grants": [{"src": ["bob@example.com"], "dst": ["carol@", "100.64.0.8", "10.20.0.0/16"], "app": {"x.com/a": [{ "b": 1, }, "c"], "x.com/d": []}}]}`, 8,
			`[{"SrcIPs":["100.64.0.3","fd7a:115c:a1e0::3"],"CapGrant":[{"Dsts":["100.64.0.8/32","fd7a:115c:a1e0::8/128"],"CapMap":{"x.com/a":[{"b":1},"c"],"x.com/d":[]}}]}]`},
		{"capabilities of own nodes",
			`{"grants": [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "app": {"x.com/a": []}}]}`, 8,
			`[{"SrcIPs":["100.64.0.8","fd7a:115c:a1e0::8"],"CapGrant":[{"Dsts":["100.64.0.8/32","fd7a:115c:a1e0::8/128"],"CapMap":{"x.com/a":[]}}]}]`},
	} {
		got, err := json.Marshal(parse(t, c.source).Compile(network()).Rules(c.node))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %s, %v\nwant %s", c.name, got, err, c.want)
		}
	}
}

// Rules that do not depend on the node share memory among all nodes. Sources are shared even if the
// rules are not.
func TestShared(t *testing.T) {
	var none *Policy
	c := none.Compile(network())
	if a, b := c.Rules(1), c.Rules(2); &a[0] != &b[0] {
		t.Error("without a policy each node has rules of its own")
	}
	if n := testing.AllocsPerRun(10, func() { c.Rules(3) }); n != 0 {
		t.Errorf("%v allocations for shared rules", n)
	}
	c = parse(t,
		`{"acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:tagged:80"]}]}`).Compile(network())
	if a, b := c.Rules(4), c.Rules(5); &a[0].SrcIPs[0] != &b[0].SrcIPs[0] {
		t.Error("each node has sources of its own")
	}
}

// speaker makes random policies from few words, so that their rules often apply.
type speaker struct{ *rand.Rand }

func (s speaker) some(words ...string) string {
	var chosen []string
	for range 1 + s.IntN(3) {
		chosen = append(chosen, words[s.IntN(len(words))])
	}
	text, _ := json.Marshal(chosen)
	return string(text)
}

func (s speaker) policy() string {
	people := []string{"*", "alice@", "bob@example.com", "group:a", "group:b", "autogroup:member"}
	others := append(slices.Clone(people[1:]), "tag:web", "tag:db", "tag:router", "autogroup:tagged", "h", "lan",
		"100.64.0.0/29", "fd7a:115c:a1e0::5", "::/0", "10.20.1.1")
	to := append(others, "*", "autogroup:internet", "8.0.0.0/7", "192.168.0.0/16")
	ports := []string{"*", "22", "80", "22,53", "1-60"}
	var acls, grants []string
	for range s.IntN(5) {
		src, dst := s.some(append(others, "*", "autogroup:danger-all")...), to
		if s.IntN(4) == 0 {
			src, dst = s.some(people[1:]...), append(to, "autogroup:self")
		}
		var withPorts []string
		for _, d := range dst {
			withPorts = append(withPorts, d+":"+ports[s.IntN(len(ports))])
		}
		proto := []string{"", "tcp", "udp"}[s.IntN(3)]
		acls = append(acls, fmt.Sprintf(`{"action": "accept", "proto": %q, "src": %s, "dst": %s}`, proto, src,
			s.some(withPorts...)))
		grants = append(grants, fmt.Sprintf(`{"src": %s, "dst": %s, "ip": %s}`, src, s.some(dst...),
			s.some("*", "22", "tcp:80", "udp:*", "gre:*")))
	}
	return fmt.Sprintf(`{"groups": {"group:a": ["alice", "carol"], "group:b": ["bob@example.com"]}, "hosts": {"h": "100.64.0.8", "lan": "10.20.0.0/16"},
		"tagOwners": {"tag:web": [], "tag:db": [], "tag:router": []},
		"acls": [%s], "grants": [%s]}`, strings.Join(acls, ",\n"), strings.Join(grants, ",\n"))
}

// slow decides about a flow by reading the file rule by rule and word by word, without compiling
// it.
func (p *Policy) slow(nodes []Node, src netip.Addr, at Node, dst netip.Addr, proto int, port uint16) bool {
	to := newMember(at)
	has := func(n Node, a netip.Addr) bool { return slices.Contains(n.Addrs, a) }
	from := func(r *rule, s selector) bool {
		if s.kind == everybody {
			return true
		}
		if s.kind == anything && !r.self {
			routed := func(p netip.Prefix) bool { return p.Contains(src) }
			return slices.ContainsFunc(meshRanges, func(s span) bool { return s.contains(src) }) ||
				slices.ContainsFunc(nodes, func(n Node) bool { return slices.ContainsFunc(n.Routes, routed) })
		}
		if s.kind == addresses {
			return s.span.contains(src)
		}
		return slices.ContainsFunc(nodes, func(n Node) bool {
			m := newMember(n)
			return has(n, src) && s.names(m) && (!r.self || m.owner != "" && m.owner == to.owner)
		})
	}
	toward := func(s selector) bool {
		routed := slices.ContainsFunc(at.Routes, func(p netip.Prefix) bool { return p.Contains(dst) })
		public := at.ExitNode && slices.ContainsFunc(internet, func(s span) bool { return s.contains(dst) })
		switch s.kind {
		case anything:
			return true
		case addresses:
			return s.span.contains(dst) && (has(at, dst) || routed || public)
		case exitInternet:
			return public
		}
		return s.names(to) && has(at, dst)
	}
	return slices.ContainsFunc(p.rules, func(r *rule) bool {
		return slices.ContainsFunc(r.src.who, func(s selector) bool { return from(r, s) }) &&
			slices.ContainsFunc(r.dst, func(t target) bool { return toward(t.who) && r.serves(t, proto, port) })
	})
}

// The packet filter of a node with the compiled rules decides as the policy file reads, and so do
// the tests of a policy file.
func TestAgainstSlow(t *testing.T) {
	s := speaker{rand.New(rand.NewPCG(5, 6))}
	protos := map[string]int{"tcp": 6, "udp": 17, "sctp": 132, "gre": 47, "ping": 1}
	for range 150 {
		source := s.policy()
		p, nodes := parse(t, source), network()
		c := p.Compile(nodes)
		doors := filters(t, c)
		all := places()
		for range 60 {
			a, b, service := all[s.IntN(len(all))], all[s.IntN(len(all))], services[s.IntN(len(services))]
			src, dst := a.addrs[s.IntN(len(a.addrs))], b.addrs[s.IntN(len(b.addrs))]
			if src.BitLen() != dst.BitLen() {
				continue
			}
			name, portText, _ := strings.Cut(service, "/")
			var port uint16
			fmt.Sscan(portText, &port)
			want := p.slow(nodes, src, nodes[b.node-1], dst, protos[name], port)
			if got := doors[b.node].In(packet(src, dst, service)); got != want {
				t.Fatalf("filter: %v to %v, %s: got %v, want %v under\n%s\n%v", src, dst, service, got, want, source,
					c.Rules(b.node))
			}
			if got := c.reaches([]int{protos[name]}, src, int(b.node-1), dst, port); got != want {
				t.Fatalf("tests: %v to %v, %s: got %v, want %v under\n%s", src, dst, service, got, want, source)
			}
			if want && a.node != b.node && a.name != "net" && a.name != "private" && !c.MaySee(b.node, a.node) {
				t.Fatalf("%v reaches %v, which does not see it, under\n%s", src, dst, source)
			}
		}
	}
}

// Two sums differ exactly if the rules differ, so that after a change only the affected nodes need
// new rules.
func TestSum(t *testing.T) {
	s := speaker{rand.New(rand.NewPCG(7, 8))}
	changes := []func(n *Node){
		func(n *Node) {},
		func(n *Node) { n.User = "alice" },
		func(n *Node) { n.Tags = []string{"tag:db"} },
		func(n *Node) { n.Tags = nil },
		func(n *Node) { n.ExitNode = !n.ExitNode },
		func(n *Node) { n.Routes = []netip.Prefix{netip.MustParsePrefix("10.20.1.0/24")} },
		func(n *Node) { n.Addrs = n.Addrs[:1] },
	}
	same, different := 0, 0
	for range 200 {
		p := parse(t, s.policy())
		nodes := network()
		before := p.Compile(nodes)
		nodes = network()
		changes[s.IntN(len(changes))](&nodes[s.IntN(len(nodes))])
		after := p.Compile(nodes)
		for _, n := range nodes {
			equal := reflect.DeepEqual(before.Rules(n.ID), after.Rules(n.ID))
			if got := before.Sum(n.ID) == after.Sum(n.ID); got != equal {
				t.Fatalf("node %d: sums equal %v, rules equal %v:\n%v\n%v", n.ID, got, equal, before.Rules(n.ID), after.Rules(n.ID))
			}
			if equal {
				same++
			} else {
				different++
			}
		}
	}
	if same == 0 || different == 0 {
		t.Errorf("%d nodes with the same rules and %d with others: one was not tested", same, different)
	}
}

// crowd returns a policy of some size and n nodes: a tenth of them with one of ten tags, the others
// owned by n/5 users in five groups.
func crowd(t testing.TB, n int) (*Policy, []Node) {
	nodes := make([]Node, n)
	groups := make([][]string, 5)
	for i := range nodes {
		nodes[i] = Node{ID: int64(i + 1), Addrs: []netip.Addr{
			netip.AddrFrom4([4]byte{100, 64 + byte(i>>16), byte(i >> 8), byte(i)}),
			netip.AddrFrom16([16]byte{0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, 14: byte(i >> 8), 15: byte(i)}),
		}}
		if i%10 == 0 {
			nodes[i].Tags = []string{fmt.Sprintf("tag:t%c", 'a'+i/10%10)}
			continue
		}
		user := i * 7 % max(n/5, 1)
		nodes[i].User = fmt.Sprintf("user%d", user)
		groups[user%5] = append(groups[user%5], nodes[i].User+"@")
	}
	var b strings.Builder
	b.WriteString(`{"tagOwners": {`)
	for i := range 10 {
		fmt.Fprintf(&b, `"tag:t%c": [],`, 'a'+i)
	}
	b.WriteString(`}, "groups": {`)
	for i, users := range groups {
		text, _ := json.Marshal(users)
		if users == nil {
			text = []byte("[]")
		}
		fmt.Fprintf(&b, `"group:g%d": %s,`, i, text)
	}
	b.WriteString(`}, "acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},`)
	for i := range 10 {
		fmt.Fprintf(&b, `{"action": "accept", "src": ["group:g%d"], "dst": ["tag:t%c:443", "10.%d.0.0/16:*"]},`, i%5, 'a'+i,
			i)
		fmt.Fprintf(&b, `{"action": "accept", "src": ["tag:t%c"], "dst": ["tag:t%c:8000-8100"]},`, 'a'+i, 'a'+(i+1)%10)
	}
	b.WriteString(`]}`)
	return parse(t, b.String()), nodes
}

var crowds = []int{10, 100, 1000, 10000}

// BenchmarkChange measures the cost of one changed node: compiling, and the sum of every node.
func BenchmarkChange(b *testing.B) {
	for _, n := range crowds {
		p, nodes := crowd(b, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c := p.Compile(nodes)
				for _, n := range nodes {
					c.Sum(n.ID)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/node")
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range crowds {
		p, nodes := crowd(b, n)
		for name, p := range map[string]*Policy{"crowd": p, "all": nil} {
			b.Run(fmt.Sprintf("%s-%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					p.Compile(nodes)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/node")
			})
		}
	}
}

func BenchmarkRules(b *testing.B) {
	for _, n := range crowds {
		p, nodes := crowd(b, n)
		c := p.Compile(nodes)
		var rules control.Rules
		b.Run(fmt.Sprintf("rules-%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rules = c.Rules(2)
			}
		})
		if len(rules) == 0 {
			b.Fatal("no rules")
		}
		b.Run(fmt.Sprintf("see-%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.MaySee(1, 2)
			}
		})
	}
}
