package server

import (
	"os"
	"strings"
	"testing"
)

// A policy whose tests have come to fail because of a node stays in force when the server starts, which
// says so everywhere; to set it, or another like it, is refused.
func TestPolicyInForceBoots(t *testing.T) {
	text, err := os.ReadFile("../policy/testdata/cases/b01-tests-at-boot.hujson")
	if err != nil {
		t.Fatal(err)
	}
	onNet(t, nil, func(t *testing.T, n *testNet) {
		n.setPolicy(string(text))
		warned := func(want int) {
			t.Helper()
			now, err := n.server.currentPolicy(t.Context())
			if err != nil || now.Text != string(text) || len(now.Failing) != want {
				t.Fatalf("in force is %+v, %v, want %d tests that fail", now, err, want)
			}
			n.server.forgetTests() // or the one before counts for a while
			if got := n.server.countFailingTests(); got != want {
				t.Errorf("the metric says %d, want %d", got, want)
			}
			health := get(n.server, "GET", "/healthz", "").Body.String()
			if want > 0 && !strings.Contains(health, "fail: 1") || want == 0 && !strings.Contains(health, `"pass"`) {
				t.Errorf("health says %s with %d tests that fail", health, want)
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
			t.Error("a policy whose tests fail was set")
		}
		if _, err := n.server.LoadPolicy(t.Context(), append(text, '\n')); err == nil {
			t.Error("a changed policy whose tests fail was taken from a file")
		}
		n.cfg.Policy = text
		n.restart()
		warned(1)
		n.cfg.Policy = nil
		n.restart()
		warned(1)
	})
}
