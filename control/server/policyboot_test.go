package server

import (
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/control/policy"
)

// A stored policy whose tests fail because of a new node stays in force when the server starts. The
// log, the metrics, the API and the health check report it. Setting this policy or a changed one is
// refused.
func TestPolicyInForceBoots(t *testing.T) {
	text, err := os.ReadFile("../policy/testdata/cases/b01-tests-at-boot.hujson")
	if err != nil {
		t.Fatal(err)
	}
	var log logBuffer
	adjust := func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) }
	onNet(t, adjust, func(t *testing.T, n *testNet) {
		n.setPolicy(string(text))
		warned := func(want int) {
			t.Helper()
			now, err := n.server.currentPolicy(t.Context())
			if err != nil || now.Text != string(text) || len(now.Failing) != want {
				t.Fatalf("policy in force: %+v, %v, want %d failing tests", now, err, want)
			}
			n.server.invalidateTests() // drops the cached result
			if got := n.server.countFailingTests(); got != want {
				t.Errorf("metric: %d failing tests, want %d", got, want)
			}
			health := get(n.server, "GET", "/healthz", "").Body.String()
			if want > 0 && !strings.Contains(health, "force: 1") || want == 0 && !strings.Contains(health, `"pass"`) {
				t.Errorf("health check: %s, want %d failing tests", health, want)
			}
		}
		warned(0)
		n.join("both", n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:db", "tag:web"} }))
		if _, err := n.server.CreateUser(t.Context(), "carl", ""); err != nil {
			t.Fatal(err)
		}
		n.join("carls", n.authKey(func(r *AuthKeyRequest) { r.User = "carl" }))
		warned(1)
		if _, err := n.server.SetPolicy(t.Context(), text); err == nil {
			t.Error("SetPolicy accepted a policy with failing tests")
		}
		if _, err := n.server.LoadPolicy(t.Context(), append(text, '\n')); err == nil {
			t.Error("LoadPolicy accepted a changed policy with failing tests")
		}
		n.cfg.Policy = text
		n.restart()
		if !strings.Contains(log.String(), "policy in force fails a test") || !strings.Contains(log.String(), "tag:db:80") {
			t.Errorf("the log does not name the test: %s", log.String())
		}
		warned(1)
		n.cfg.Policy = nil
		n.restart()
		warned(1)
	})
}

// A detailed check explains each entry on the current nodes and lists unknown users. The size limit
// of a policy is the same for each way to set it.
func TestPolicyChecked(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		n.join("laptop", n.authKey(nil))
		const text = `{"acls": [{"action": "accept", "src": ["Alice@", "bob@"], "dst": ["*:22"]}]}`
		checked, err := n.server.checkPolicy(t.Context(), []byte(text), explained)
		want := Policy{Text: text, Warnings: []string{`1:50: there is no user "bob@"`}, Failing: []string{},
			Explained: []string{"1:11: lets Alice@, bob@ reach *:22 by TCP, UDP and ICMP (now 1 node to 1 node)"}}
		if err != nil || !reflect.DeepEqual(checked, want) {
			t.Errorf("got %+v, %v", checked, err)
		}
		if plain, err := n.server.checkPolicy(t.Context(), []byte(text), verdictOnly); err != nil || plain.Explained != nil {
			t.Errorf("without details: %+v, %v", plain, err)
		}
		long := "{}" + strings.Repeat(" ", policy.MaxSize-2)
		for text, status := range map[string]int{long: 200, long + " ": 413} {
			for _, call := range []string{"POST policy/check", "PUT policy"} {
				method, path, _ := strings.Cut(call, " ")
				w := get(n.server.AdminHandler(), method, apiRoot+path, text)
				if w.Code != status || status == 413 && !strings.Contains(w.Body.String(), "524288") {
					t.Errorf("%s of %d bytes: got %d %s, want %d", call, len(text), w.Code, w.Body, status)
				}
			}
		}
		n.restart() // the store accepts a policy of the maximum size
	})
}

// Routes that a grant sends through a router are shown to the grant's sources at that router,
// whether it is elected or not.
func TestPolicyVia(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		lan := prefixes("10.1.0.0/16")
		routers := make(map[string]*peer)
		for _, name := range []string{"eu", "us"} {
			r := n.newPeer(name)
			routers[name] = r
			r.host.RoutableIPs = lan
			r.register(withKey(n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:" + name} })))
			r.stream()
			r.update(nil)
			settle()
			n.approve(name, "10.1.0.0/16")
		}
		ops := n.join("ops", n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:ops"} }))
		w := n.join("w", n.authKey(nil))
		n.setPolicy(`{"tagOwners": {"tag:us": [], "tag:ops": []}, "grants": [
			{"src": ["alice@"], "dst": ["10.1.0.0/16"], "ip": ["*"]},
			{"src": ["tag:ops"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:us"]}]}`)
		settle()
		routes := func(n *control.Node) bool { return n != nil && slices.Contains(n.AllowedIPs, lan[0]) }
		if eu, us := ops.sees("eu"), ops.sees("us"); !routes(us) || routes(eu) {
			t.Errorf("a source of the grant sees %+v and %+v", eu, us)
		}
		if eu, us := w.sees("eu"), w.sees("us"); !routes(eu) || routes(us) {
			t.Errorf("another node sees %+v and %+v", eu, us)
		}
		routers["us"].endStream()
		time.Sleep(defaultOfflineGrace + time.Second)
		late := n.join("late", n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:ops"} }))
		routers["us"].stream()
		settle()
		if us := late.sees("us"); us == nil || !online(us) || !slices.Contains(us.AllowedIPs, lan[0]) {
			t.Errorf("a node that joined while the router was offline sees %+v", us)
		}
	})
}

// A node receives its attributes with the first map, and when the policy changes them.
func TestPolicyAttributes(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		early := n.join("early", k)
		web := n.join("web", n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:web"} }))
		const attrs = `{"nodeAttrs": [{"target": ["alice@"], "attr": ["a"]}],
			"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`
		n.setPolicy(attrs)
		settle()
		late := n.join("late", k)
		has := func(p *peer) bool { _, ok := p.self().CapMap["a"]; return ok }
		if !has(early) || !has(late) || has(web) {
			t.Errorf("early %v, late %v, web %v", early.self().CapMap, late.self().CapMap, web.self().CapMap)
		}
		early.update(func(r *control.MapRequest) { r.Hostinfo.Hostname = "soon" })
		settle()
		if !has(early) || early.self().Name != "soon.net.test." {
			t.Errorf("after another change: %+v", early.self())
		}
		n.setPolicy(strings.Replace(attrs, `["a"]`, `["b"]`, 1))
		settle()
		if has(early) || has(late) {
			t.Error("an attribute that the policy no longer gives is still there")
		}
	})
}
