package server

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ginnel/control"
)

const webPolicy = `{
	// alice's nodes may reach the web servers, and nothing else is allowed
	"tagOwners": {"tag:web": ["alice@"]},
	"acls": [{"action": "accept", "src": ["alice@"], "dst": ["tag:web:80"]}],
}`

func (n *testNet) setPolicy(text string) {
	n.t.Helper()
	if _, err := n.server.SetPolicy(n.t.Context(), []byte(text)); err != nil {
		n.t.Fatal(err)
	}
}

// Peers and packet filters follow the policy. A change takes effect within a second, without
// reconnecting.
func TestPolicy(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		laptop, phone := n.join("laptop", k), n.join("phone", k)
		web := n.join("web", n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:web"} }))
		n.setPolicy(webPolicy)
		time.Sleep(time.Second)
		if laptop.sees("web") == nil || laptop.sees("phone") != nil || web.sees("laptop") == nil || web.sees("phone") == nil {
			t.Error("nodes have the wrong peers")
		}
		m, _ := web.latestMap()
		if !letsIn(m, laptop.self().Addresses[0].Addr()) || letsIn(m, web.self().Addresses[0].Addr()) {
			t.Errorf("the packet filter of the web server is wrong: %+v", m.Filter)
		}
		if m, _ := laptop.latestMap(); len(m.Filter) != 0 || m.Filters["base"] == nil {
			t.Errorf("the packet filter of the laptop is not empty: %+v", m.Filters)
		}
		tablet := n.join("tablet", k)
		if tablet.sees("web") == nil || tablet.sees("phone") != nil ||
			web.sees("tablet") == nil || phone.sees("tablet") != nil {
			t.Error("the wrong nodes see a node that joined later")
		}
		if m, _ = web.latestMap(); !letsIn(m, tablet.self().Addresses[1].Addr()) {
			t.Errorf("the packet filter of the web server lacks the tablet: %+v", m.Filter)
		}
		if err := n.server.deletePolicy(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if laptop.sees("phone") == nil || phone.sees("tablet") == nil {
			t.Error("without a policy a node lacks peers")
		}
	})
}

// Each change of the policy is one frame on each open stream, so that peers and packet filter
// change together.
func TestPolicyInOneFrame(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		laptop, phone := n.join("laptop", k), n.join("phone", k)
		web := n.join("web", n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:web"} }))
		all := []*peer{laptop, phone, web}
		step := func(what string, change func(), peersOf map[*peer]int) {
			t.Helper()
			before := make(map[*peer]int)
			for _, p := range all {
				_, before[p] = p.latestMap()
			}
			change()
			settle()
			for _, p := range all {
				m, frames := p.latestMap()
				if frames-before[p] != 1 || p.err != nil || len(m.Peers) != peersOf[p] {
					t.Errorf("%s: %s has %d peers after %d frames, %v, want %d after 1", what, p.host.Hostname, len(m.Peers),
						frames-before[p], p.err, peersOf[p])
				}
			}
		}
		step("set", func() { n.setPolicy(webPolicy) }, map[*peer]int{laptop: 1, phone: 1, web: 2})
		step("changed", func() { n.setPolicy(`{"acls": []}`) }, map[*peer]int{})
		step("deleted", func() {
			if err := n.server.deletePolicy(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, map[*peer]int{laptop: 2, phone: 2, web: 2})
	})
}

// "A bad file never replaces a good one", and the error has the position of the mistake.
func TestBadPolicy(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		n.setPolicy(webPolicy)
		_, err := n.server.SetPolicy(t.Context(), []byte("{\n  \"acls\": 7\n}"))
		if err == nil || !strings.Contains(err.Error(), "2:") {
			t.Errorf("got %v, want the position 2:", err)
		}
		if _, err := n.server.checkPolicy(t.Context(), []byte(`{"acls": []`), verdictOnly); err == nil {
			t.Error("a check accepted a bad policy")
		}
		p, err := n.server.currentPolicy(t.Context())
		if err != nil || p.Text != webPolicy {
			t.Errorf("policy in force: %+v, %v", p, err)
		}
		n.restart()
		if p, _ := n.server.currentPolicy(t.Context()); p.Text != webPolicy {
			t.Errorf("policy in force after a restart: %+v", p)
		}
	})
}

func TestRequestedTags(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		ask := func(r *control.RegisterRequest) { withKey(k)(r); r.Hostinfo.RequestTags = []string{"tag:web"} }
		if _, refused := n.newPeer("a").register(ask); refused != "requested tags [tag:web] are invalid or not permitted" {
			t.Errorf("without a policy: %q", refused)
		}
		n.setPolicy(webPolicy)
		if resp, refused := n.newPeer("b").register(ask); refused != "" || resp.Login.LoginName != "tagged-devices" {
			t.Errorf("with a policy: %+v %q", resp, refused)
		}
	})
}

// Of two routers of a subnet one is elected. When it goes offline, the other is elected, and stays
// so when the first returns.
func TestFailover(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		r1, r2, w := n.newPeer("r1"), n.newPeer("r2"), n.join("w", k)
		lan, exit := prefixes("10.1.0.0/16"), prefixes("0.0.0.0/0", "::/0")
		for _, r := range []*peer{r1, r2} {
			r.host.RoutableIPs = slices.Concat(lan, exit)
			r.register(withKey(k))
			r.stream()
			r.update(nil)
		}
		settle()
		if got := w.sees("r1"); len(got.AllowedIPs) != 2 {
			t.Errorf("routes without approval: %v", got.AllowedIPs)
		}
		for _, name := range []string{"r1", "r2"} {
			if _, err := n.server.approveRoutes(t.Context(), n.node(name).ID, slices.Concat(lan, exit)); err != nil {
				t.Fatal(err)
			}
		}
		settle()
		expect := func(primary, other string) {
			t.Helper()
			a, b := w.sees(primary), w.sees(other)
			if !slices.Contains(a.AllowedIPs, lan[0]) || !slices.Contains(a.PrimaryRoutes, lan[0]) ||
				slices.Contains(b.AllowedIPs, lan[0]) {
				t.Errorf("want %s elected: %v, and %v of %s", primary, a.AllowedIPs, b.AllowedIPs, other)
			}
			if !slices.Contains(a.AllowedIPs, exit[0]) || !slices.Contains(b.AllowedIPs, exit[1]) {
				t.Error("only one router is shown as an exit node")
			}
		}
		expect("r1", "r2")
		r1.endStream()
		time.Sleep(defaultOfflineGrace + time.Second)
		expect("r2", "r1")
		r1.stream()
		settle()
		expect("r2", "r1") // no failback
	})
}

const lanPolicy = `{"tagOwners": {"tag:router": [], "tag:office": []}, "acls": [
	{"action": "accept", "src": ["*"], "dst": ["tag:router:22"]},
	{"action": "accept", "src": ["tag:office"], "dst": [LANS]}]}`

// A node is sent exactly those routes of other nodes that the policy lets it use, after every kind
// of change.
func TestRoutesByPolicy(t *testing.T) {
	for name, early := range map[string]bool{"in the first frame": false, "in deltas": true} {
		t.Run(name, func(t *testing.T) {
			onNet(t, nil, func(t *testing.T, n *testNet) {
				n.setPolicy(strings.ReplaceAll(lanPolicy, "LANS", `"10.1.0.0/16:*"`))
				office := func() *peer {
					return n.join("office", n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:office"} }))
				}
				var o *peer
				if early {
					o = office()
				}
				router := n.newPeer("router")
				router.host.RoutableIPs = prefixes("10.1.0.0/16", "10.2.0.0/16", "0.0.0.0/0", "::/0")
				router.register(withKey(n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:router"} })))
				router.stream()
				router.update(nil)
				settle()
				n.approve("router", "10.1.0.0/16", "10.2.0.0/16", "0.0.0.0/0")
				if !early {
					o = office()
				}
				n.routesFollow(o, n.join("outsider", n.authKey(nil)), router)
			})
		})
	}
}

func (n *testNet) approve(node string, routes ...string) {
	n.t.Helper()
	if _, err := n.server.approveRoutes(n.t.Context(), n.node(node).ID, prefixes(routes...)); err != nil {
		n.t.Fatal(err)
	}
	settle()
}

// routesFollow checks which routes of a router two nodes are sent while the policy and the nodes
// change.
func (n *testNet) routesFollow(office, outsider, router *peer) {
	n.t.Helper()
	lans := func(list string) { n.setPolicy(strings.ReplaceAll(lanPolicy, "LANS", list)) }
	want := func(step string, p *peer, routes ...string) {
		n.t.Helper()
		settle()
		seen := p.sees("router")
		if seen == nil || !slices.Equal(seen.AllowedIPs[2:], prefixes(routes...)) || p.err != nil {
			n.t.Errorf("%s: %s sees %+v, %v, want the routes %s", step, p.host.Hostname, seen, p.err, routes)
		}
	}
	want("one", office, "10.1.0.0/16")
	want("one", outsider)
	lans(`"10.1.0.0/16:*", "10.2.3.0/24:80"`)
	want("both", office, "10.1.0.0/16", "10.2.0.0/16")
	want("both", outsider)
	router.update(func(r *control.MapRequest) { r.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1")} })
	want("a patch", office, "10.1.0.0/16", "10.2.0.0/16")
	lans(`"10.2.0.0/16:*", "autogroup:internet:*"`)
	want("another and the exit routes", office, "10.2.0.0/16", "0.0.0.0/0", "::/0")
	n.approve("router", "10.1.0.0/16")
	want("approval withdrawn", office)
	n.approve("router", "10.1.0.0/16", "10.2.0.0/16")
	want("approved again", office, "10.2.0.0/16")
	if _, err := n.server.tagNode(n.t.Context(), n.node("outsider").ID, []string{"tag:office"}); err != nil {
		n.t.Fatal(err)
	}
	want("tagged", outsider, "10.2.0.0/16")
	if err := n.server.deletePolicy(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	want("no policy", office, "10.1.0.0/16", "10.2.0.0/16")
	want("no policy", outsider, "10.1.0.0/16", "10.2.0.0/16")
}

// A restart of the server does not change the elected router, in whatever order the routers
// reconnect. A router that does not reconnect within the grace period is replaced.
func TestElectionAndRestart(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		lan := prefixes("10.1.0.0/16")
		var routers []*peer
		for _, name := range []string{"r1", "r2", "r3"} {
			r := n.newPeer(name)
			r.host.RoutableIPs = lan
			r.register(withKey(k))
			r.stream()
			r.update(nil)
			routers = append(routers, r)
		}
		settle()
		for _, r := range routers {
			if _, err := n.server.approveRoutes(t.Context(), n.node(r.host.Hostname).ID, lan); err != nil {
				t.Fatal(err)
			}
		}
		w := n.join("w", k)
		elected := func() (names string) {
			for _, node := range n.nodes() {
				if len(node.Routes.Primary) > 0 {
					names += node.Name
				}
			}
			return names
		}
		back := func(peers ...*peer) {
			for _, p := range peers {
				p.Close()
				p.wg.Wait()
				p.dial()
				p.stream()
				time.Sleep(2 * time.Second)
				if seen := w.sees("r2"); elected() != "r2" || seen != nil && len(seen.PrimaryRoutes) != 1 {
					t.Errorf("after %s reconnected, %s is elected or shown, want r2", p.host.Hostname, elected())
				}
			}
		}
		routers[0].endStream()
		time.Sleep(defaultOfflineGrace + time.Second)
		n.restart()
		back(w, routers[0], routers[2], routers[1])
		time.Sleep(defaultOfflineGrace + time.Second)
		settle()
		if elected() != "r2" {
			t.Errorf("after the grace period %s is elected, want r2", elected())
		}
		n.restart()
		back(w, routers[2])
		time.Sleep(defaultOfflineGrace)
		settle()
		if elected() != "r3" {
			t.Errorf("%s is elected, want r3, the only one that reconnected", elected())
		}
	})
}

func TestAutoApprovers(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		r, w := n.newPeer("r"), n.join("w", k)
		r.host.RoutableIPs = prefixes("10.1.0.0/16", "10.2.0.0/16")
		r.register(withKey(k))
		settle()
		n.setPolicy(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
			"autoApprovers": {"routes": {"10.1.0.0/16": ["alice@"]}}}`)
		time.Sleep(time.Second)
		if got := w.sees("r").PrimaryRoutes; !slices.Equal(got, prefixes("10.1.0.0/16")) {
			t.Errorf("approved routes: %v", got)
		}
	})
}

// No approval lets a router serve a route that contains addresses of nodes.
func TestRoutesThatCoverNodes(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		r, w := n.newPeer("r"), n.join("w", k)
		victim := n.join("victim", k).self().Addresses[0]
		good := prefixes("10.2.0.0/16", "fd7a:115c:a1e0:b1a:0:7:a01:100/120")
		r.host.RoutableIPs = append(prefixes(victim.String(), "100.64.0.0/16", "fd7a:115c:a1e0::/64", "100.0.0.0/8"), good...)
		r.register(withKey(k))
		settle()
		n.setPolicy(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
			"autoApprovers": {"routes": {"0.0.0.0/0": ["alice@"], "::/0": ["alice@"]}}}`)
		time.Sleep(time.Second)
		if got := w.sees("r").PrimaryRoutes; !slices.Equal(got, good) {
			t.Errorf("approved routes: %v, want %v", got, good)
		}
		for _, allowed := range w.sees("r").AllowedIPs {
			if allowed == victim {
				t.Error("the address of another node is routed to the router")
			}
		}
		for _, route := range prefixes(victim.String(), "100.64.0.0/10") {
			if _, err := n.server.approveRoutes(t.Context(), n.node("r").ID, []netip.Prefix{route}); err == nil {
				t.Errorf("%s was approved", route)
			}
		}
	})
}

// The policy of the configuration is in force when the server starts, and replaces the stored one.
func TestConfiguredPolicy(t *testing.T) {
	onNet(t, func(c *Config) { c.Policy = []byte(webPolicy) }, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a := n.join("a", k)
		n.join("b", k)
		if a.sees("b") != nil {
			t.Error("the policy is not in force")
		}
		n.stop()
		n.cfg.Policy = []byte(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`)
		n.start()
		a.leave()
		a.dial()
		a.stream()
		settle()
		if a.sees("b") == nil {
			t.Error("the new policy is not in force")
		}
	})
}

// A tag that the policy does not define is refused, and the node keeps its tags. The error names
// the tag and the remedy.
func TestTagWithoutOwner(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		n.join("a", n.authKey(nil))
		id := n.node("a").ID
		tag := func(tags ...string) error {
			_, err := n.server.tagNode(t.Context(), id, tags)
			return err
		}
		if err := tag("tag:any"); err != nil {
			t.Errorf("without a policy: %v", err)
		}
		n.setPolicy(`{"tagOwners": {"tag:web": ["alice@"], "tag:none": []}}`)
		const want = `tag "tag:wbe" has no owner in the policy: add it under tagOwners first`
		if err := tag("tag:web", "tag:wbe"); err == nil || err.Error() != want || statusOf(err) != http.StatusBadRequest {
			t.Errorf("a tag without an owner: %v, status %d; want %s", err, statusOf(err), want)
		}
		if got := n.node("a").Tags; !slices.Equal(got, []string{"tag:any"}) {
			t.Errorf("refused, but the node has the tags %v", got)
		}
		if err := tag("tag:web", "tag:none"); err != nil {
			t.Errorf("tags with owners: %v", err)
		}
	})
}
