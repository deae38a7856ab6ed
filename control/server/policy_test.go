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
	// alice's machines reach the web servers, and nothing else happens
	"tagOwners": {"tag:web": ["alice@"]},
	"acls": [{"action": "accept", "src": ["alice@"], "dst": ["tag:web:80"]}],
}`

func (n *testNet) setPolicy(text string) {
	n.t.Helper()
	if _, err := n.server.SetPolicy(n.t.Context(), []byte(text)); err != nil {
		n.t.Fatal(err)
	}
}

// Nodes are shown to each other, and let each other in, as the policy has it; a change takes effect
// within a second and without reconnecting.
func TestPolicy(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		laptop, phone := n.join("laptop", k), n.join("phone", k)
		web := n.join("web", n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:web"} }))
		n.setPolicy(webPolicy)
		time.Sleep(time.Second)
		if laptop.sees("web") == nil || laptop.sees("phone") != nil || web.sees("laptop") == nil || web.sees("phone") == nil {
			t.Error("the wrong nodes are seen")
		}
		m, _ := web.view()
		if !letsIn(m, laptop.self().Addresses[0].Addr()) || letsIn(m, web.self().Addresses[0].Addr()) {
			t.Errorf("the web server lets the wrong ones in: %+v", m.Filter)
		}
		if m, _ := laptop.view(); len(m.Filter) != 0 || m.Filters["base"] == nil {
			t.Errorf("the laptop lets somebody in: %+v", m.Filters)
		}
		tablet := n.join("tablet", k)
		if tablet.sees("web") == nil || tablet.sees("phone") != nil || web.sees("tablet") == nil || phone.sees("tablet") != nil {
			t.Error("the wrong nodes see one that has come later")
		}
		if m, _ = web.view(); !letsIn(m, tablet.self().Addresses[1].Addr()) {
			t.Errorf("the web server does not let the tablet in: %+v", m.Filter)
		}
		if err := n.server.deletePolicy(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if laptop.sees("phone") == nil || phone.sees("tablet") == nil {
			t.Error("without a policy not everybody is seen")
		}
	})
}

// Each change of the policy is one frame on the streams that there are: peers and filter change
// together.
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
				_, before[p] = p.view()
			}
			change()
			settle()
			for _, p := range all {
				m, frames := p.view()
				if frames-before[p] != 1 || p.err != nil || len(m.Peers) != peersOf[p] {
					t.Errorf("%s: %s has %d peers after %d frames, %v, want %d after 1", what, p.host.Hostname, len(m.Peers),
						frames-before[p], p.err, peersOf[p])
				}
			}
		}
		step("set", func() { n.setPolicy(webPolicy) }, map[*peer]int{laptop: 1, phone: 1, web: 2})
		step("changed", func() { n.setPolicy(`{"acls": []}`) }, map[*peer]int{})
		step("taken away", func() {
			if err := n.server.deletePolicy(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, map[*peer]int{laptop: 2, phone: 2, web: 2})
	})
}

// "A bad file never replaces a good one", and says where it is bad.
func TestBadPolicy(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		n.setPolicy(webPolicy)
		_, err := n.server.SetPolicy(t.Context(), []byte("{\n  \"acls\": 7\n}"))
		if err == nil || !strings.Contains(err.Error(), "2:") {
			t.Errorf("got %v, want the line of the mistake", err)
		}
		if _, err := n.server.checkPolicy(t.Context(), []byte(`{"acls": []`), verdictOnly); err == nil {
			t.Error("a bad policy was checked and found good")
		}
		p, err := n.server.currentPolicy(t.Context())
		if err != nil || p.Text != webPolicy {
			t.Errorf("in force is %+v, %v", p, err)
		}
		n.restart()
		if p, _ := n.server.currentPolicy(t.Context()); p.Text != webPolicy {
			t.Errorf("after a restart in force is %+v", p)
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

// Of two routers of one subnet one is elected, and the other follows when that one goes.
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
			if !slices.Contains(a.AllowedIPs, lan[0]) || !slices.Contains(a.PrimaryRoutes, lan[0]) || slices.Contains(b.AllowedIPs, lan[0]) {
				t.Errorf("want %s elected: %v, and %v of %s", primary, a.AllowedIPs, b.AllowedIPs, other)
			}
			if !slices.Contains(a.AllowedIPs, exit[0]) || !slices.Contains(b.AllowedIPs, exit[1]) {
				t.Error("not both are exit nodes")
			}
		}
		expect("r1", "r2")
		r1.away()
		time.Sleep(defaultOfflineGrace + time.Second)
		expect("r2", "r1")
		r1.stream()
		settle()
		expect("r2", "r1") // no move without need
	})
}

const lanPolicy = `{"tagOwners": {"tag:router": [], "tag:office": []}, "acls": [
	{"action": "accept", "src": ["*"], "dst": ["tag:router:22"]}, {"action": "accept", "src": ["tag:office"], "dst": [LANS]}]}`

// A node is told of those routes of others that the policy lets it use, and of no more, whatever
// changes.
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
				n.routesFollow(o, n.join("stranger", n.authKey(nil)), router)
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

// routesFollow checks what two nodes are told of a router's routes while the policy and the nodes
// change.
func (n *testNet) routesFollow(office, stranger, router *peer) {
	n.t.Helper()
	lans := func(list string) { n.setPolicy(strings.ReplaceAll(lanPolicy, "LANS", list)) }
	want := func(step string, p *peer, routes ...string) {
		n.t.Helper()
		settle()
		seen := p.sees("router")
		if seen == nil || !slices.Equal(seen.AllowedIPs[2:], prefixes(routes...)) || p.err != nil {
			n.t.Errorf("%s: %s is told of %+v, %v, want the routes %s", step, p.host.Hostname, seen, p.err, routes)
		}
	}
	want("one", office, "10.1.0.0/16")
	want("one", stranger)
	lans(`"10.1.0.0/16:*", "10.2.3.0/24:80"`)
	want("both", office, "10.1.0.0/16", "10.2.0.0/16")
	want("both", stranger)
	router.update(func(r *control.MapRequest) { r.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1")} })
	want("a patch", office, "10.1.0.0/16", "10.2.0.0/16")
	lans(`"10.2.0.0/16:*", "autogroup:internet:*"`)
	want("another and the Internet", office, "10.2.0.0/16", "0.0.0.0/0", "::/0")
	n.approve("router", "10.1.0.0/16")
	want("approval taken back", office)
	n.approve("router", "10.1.0.0/16", "10.2.0.0/16")
	want("approved again", office, "10.2.0.0/16")
	if _, err := n.server.tagNode(n.t.Context(), n.node("stranger").ID, []string{"tag:office"}); err != nil {
		n.t.Fatal(err)
	}
	want("given to the tag", stranger, "10.2.0.0/16")
	if err := n.server.deletePolicy(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	want("no policy", office, "10.1.0.0/16", "10.2.0.0/16")
	want("no policy", stranger, "10.1.0.0/16", "10.2.0.0/16")
}

// A restart of the server does not move an office, whoever is back first, but one who is not back
// in time loses it.
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
					t.Errorf("with %s back, %s is elected, and another than r2 is seen to be", p.host.Hostname, elected())
				}
			}
		}
		routers[0].away()
		time.Sleep(defaultOfflineGrace + time.Second)
		n.restart()
		back(w, routers[0], routers[2], routers[1])
		time.Sleep(defaultOfflineGrace + time.Second)
		settle()
		if elected() != "r2" {
			t.Errorf("in the end %s is elected", elected())
		}
		n.restart()
		back(w, routers[2])
		time.Sleep(defaultOfflineGrace)
		settle()
		if elected() != "r3" {
			t.Errorf("without the others %s is elected", elected())
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
			t.Errorf("approved are %v", got)
		}
	})
}

// No approval, however wide, lets a router take addresses of nodes.
func TestRoutesThatTakeNodes(t *testing.T) {
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
			t.Errorf("approved are %v, want %v", got, good)
		}
		for _, allowed := range w.sees("r").AllowedIPs {
			if allowed == victim {
				t.Error("the address of another node leads to the router")
			}
		}
		for _, route := range prefixes(victim.String(), "100.64.0.0/10") {
			if _, err := n.server.approveRoutes(t.Context(), n.node("r").ID, []netip.Prefix{route}); err == nil {
				t.Errorf("%s can be approved", route)
			}
		}
	})
}

// The policy of the configuration is in force when the server starts, and replaces the one before.
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

// A node gets no tag that the policy does not know, and keeps what it has; the answer names the tag
// and what to do.
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
		if _, err := n.server.SetPolicy(t.Context(), []byte(`{"tagOwners": {"tag:web": ["alice@"], "tag:none": []}}`)); err != nil {
			t.Fatal(err)
		}
		const want = `tag "tag:wbe" has no owner in the policy: add it under tagOwners first`
		if err := tag("tag:web", "tag:wbe"); err == nil || err.Error() != want || statusOf(err) != http.StatusBadRequest {
			t.Errorf("a tag without an owner: %v, status %d; want %s", err, statusOf(err), want)
		}
		if got := n.node("a").Tags; !slices.Equal(got, []string{"tag:any"}) {
			t.Errorf("refused, and the node has %v", got)
		}
		if err := tag("tag:web", "tag:none"); err != nil {
			t.Errorf("tags with owners: %v", err)
		}
	})
}
