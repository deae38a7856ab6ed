package server

import (
	"slices"
	"testing"
	"time"
)

// With a take-over key, a new node takes over an offline node with the same name.
func TestTakeOver(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(func(r *AuthKeyRequest) { r.TakeOver = true })
		first := n.join("job", k)
		before := first.self()
		second := n.join("job", k)
		if second.self().Name != "job-1.net.test." {
			t.Errorf("took over a node that is online: %s", second.self().Name)
		}
		first.leave()
		time.Sleep(defaultOfflineGrace + time.Second)
		third := n.join("job", k)
		self := third.self()
		if self.ID != before.ID || self.Addresses[0] != before.Addresses[0] || self.Name != before.Name {
			t.Errorf("got %+v, want to take over %+v", self, before)
		}
		if seen := second.sees("job"); seen == nil || seen.Key != third.node.Public() {
			t.Errorf("the peer sees %+v", seen)
		}
	})
}

// Only a node with the same tags can take over a tagged node. Routes that an administrator approved
// do not pass to another machine, to other tags or to another user.
func TestTakeOverAcrossTags(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		keyFor := func(tags ...string) string {
			return n.authKey(func(r *AuthKeyRequest) { r.TakeOver, r.Tags = true, tags })
		}
		route := prefixes("10.1.0.0/16")
		router := n.newPeer("border")
		router.host.RoutableIPs = route
		router.register(withKey(keyFor("tag:router", "tag:gate")))
		id := n.node("border").ID
		approve := func() {
			if _, err := n.server.approveRoutes(t.Context(), id, route); err != nil {
				t.Fatal(err)
			}
		}
		approve()
		router.leave()
		time.Sleep(defaultOfflineGrace + time.Minute)
		for _, tags := range [][]string{{"tag:ci"}, {"tag:router"}, nil} {
			n.join("border", keyFor(tags...)).leave()
		}
		if got := n.node("border"); got.ID != id || !slices.Equal(got.Routes.Approved, route) {
			t.Errorf("a node with other tags has taken over %+v", got)
		}
		next := n.newPeer("border")
		next.host.RoutableIPs = route
		next.register(withKey(keyFor("tag:gate", "tag:router")))
		if got := n.node("border"); got.ID != id || len(got.Routes.Approved) > 0 {
			t.Errorf("a machine with the same tags is node %d with the routes %v approved, want node %d without",
				got.ID, got.Routes.Approved, id)
		}
		approve()
		next.register(withKey(keyFor("tag:gate", "tag:router")))
		if got := n.node("border"); !slices.Equal(got.Routes.Approved, route) {
			t.Error("approvals were dropped although machine and tags are the same")
		}
		if got, err := n.server.tagNode(t.Context(), id, []string{"tag:ci"}); err != nil || len(got.Routes.Approved) > 0 {
			t.Errorf("with other tags the routes %v are still approved (%v)", got.Routes.Approved, err)
		}
	})
}

// A node cannot be taken over before its first stream, nor within the grace period after a restart
// of the server.
func TestNoTakeOver(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(func(r *AuthKeyRequest) { r.TakeOver = true })
		start := func(want int) *peer {
			p := n.newPeer("job")
			p.register(withKey(k))
			if got := len(n.nodes()); got != want {
				t.Errorf("%d nodes, want %d", got, want)
			}
			return p
		}
		first := start(1)
		start(2)
		time.Sleep(time.Minute)
		first.register(nil)
		start(3)
		time.Sleep(time.Minute)
		n.restart()
		start(4)
		time.Sleep(time.Minute)
		start(4) // takes over a node
		start(5) // cannot take over the same node
	})
}
