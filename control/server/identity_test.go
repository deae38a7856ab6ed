package server

import (
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/key"
)

// A machine keeps its node, with ID, addresses and name, when it logs in as another user or with
// other tags, by pre-auth key or approval. Approvals for the earlier identity are dropped.
func TestMachineIsIdentity(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		n.setPolicy(
			`{"tagOwners": {"tag:ci": ["alice@"], "tag:db": []}, "acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`)
		if _, err := n.server.CreateUser(t.Context(), "bob", ""); err != nil {
			t.Fatal(err)
		}
		byKey := func(user string, tags ...string) func(p *peer) {
			k := n.authKey(func(r *AuthKeyRequest) { r.User, r.Tags = user, tags })
			return func(p *peer) { p.register(withKey(k)) }
		}
		byHand := func(user string, tags ...string) func(p *peer) {
			return func(p *peer) {
				p.host.RequestTags = tags
				resp, _ := p.register(nil)
				id := strings.TrimPrefix(resp.AuthURL, testURL+loginPath)
				if _, err := n.server.ApproveLogin(t.Context(), id, user); err != nil {
					t.Error(err)
				}
				p.host.RequestTags = nil
			}
		}
		p := n.newPeer("build")
		p.host.RoutableIPs = prefixes("10.1.0.0/16")
		byKey("alice")(p)
		first := n.node("build")
		for _, c := range []struct {
			name, owner string
			tags        []string
			register    func(p *peer)
		}{
			{"to tags by a key", "tagged-devices", []string{"tag:ci"}, byKey("alice", "tag:ci")},
			{"to other tags", "tagged-devices", []string{"tag:db"}, byKey("alice", "tag:db")},
			{"to a user by a key", "alice", []string{}, byKey("alice")},
			{"to tags by hand", "tagged-devices", []string{"tag:ci"}, byHand("alice", "tag:ci")},
			{"to a user by hand", "alice", []string{}, byHand("alice")},
			{"to another user", "bob", []string{}, byKey("bob")},
		} {
			n.approve(n.nodes()[0].Name, "10.1.0.0/16")
			p.node = key.NewNodePrivate()
			c.register(p)
			got := n.nodes()
			if len(got) != 1 {
				t.Fatalf("%s: got %d nodes, want 1", c.name, len(got))
			}
			a := got[0]
			if a.ID != first.ID || a.Name != "build" || !slices.Equal(a.Addresses, first.Addresses) ||
				a.NodeKey != p.node.Public() {
				t.Errorf("%s: got the node %+v, want %+v", c.name, a, first)
			}
			if a.User != c.owner || !slices.Equal(a.Tags, c.tags) || len(a.Routes.Approved) != 0 {
				t.Errorf("%s: got user %s, tags %v, approved routes %v", c.name, a.User, a.Tags, a.Routes.Approved)
			}
		}
	})
}

// Older versions could make several nodes for a machine. A registration uses the matching one and
// leaves the others unchanged.
func TestMachineWithTwoNodes(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		p := n.newPeer("a")
		p.register(withKey(n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:a"} })))
		if err := n.server.core.change(t.Context(), func(t *tx) error {
			rec := *t.nodes[1].rec
			rec.ID, rec.Key, rec.Label, rec.Tags = 2, newNodeKey().Public(), "b", nil
			rec.V4, rec.V6 = rec.V4.Next(), rec.V6.Next()
			t.count(counters{Node: 2, User: 1, AuthKey: 1, Address: t.counters.Address + 1})
			t.putNode(&rec)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		p.node = key.NewNodePrivate()
		p.register(withKey(n.authKey(nil)))
		if got := n.nodes(); len(got) != 2 || got[1].NodeKey != p.node.Public() || got[0].NodeKey == p.node.Public() {
			t.Errorf("the nodes are %+v", got)
		}
	})
}

// A deleted node that registers again soon is logged. A blocked machine cannot register, even after
// a restart of the server, until it is unblocked.
func TestDeletedNodeComesBack(t *testing.T) {
	var log logBuffer
	adjust := func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) }
	onNet(t, adjust, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		p := n.newPeer("a")
		back := func() string { _, refused := p.register(withKey(k)); return refused }
		remove := func(then returnRule) {
			t.Helper()
			back()
			if err := n.server.deleteNode(t.Context(), n.nodes()[0].ID, then); err != nil {
				t.Fatal(err)
			}
		}
		told := func() bool { return strings.Contains(log.String(), "deleted node has come back") }
		remove(returnAllowed)
		if told() {
			t.Error("logged before the node is back")
		}
		if refused := back(); refused != "" || !told() {
			t.Errorf("after the return, refused with %q; the log has\n%s", refused, log.String())
		}
		log.Reset()
		remove(returnAllowed)
		time.Sleep(returnTime + time.Second)
		if back(); told() {
			t.Error("logged although the deletion is long ago")
		}
		remove(returnBlocked)
		if refused := back(); refused != errBlocked.Error() {
			t.Errorf("blocked, with a key: got %q", refused)
		}
		if _, refused := p.register(nil); refused != errBlocked.Error() {
			t.Errorf("blocked, without a key: got %q", refused)
		}
		n.restart()
		settle()
		if refused := back(); refused != errBlocked.Error() {
			t.Errorf("blocked, after a restart: got %q", refused)
		}
		want := Page[Blocked]{Items: []Blocked{{p.machine.Public(), "a", time.Time{}}}}
		list, err := n.server.listBlocked(t.Context())
		if err != nil || len(list.Items) != 1 {
			t.Fatalf("blocked machines: %+v, %v", list, err)
		}
		if want.Items[0].Created = list.Items[0].Created; !reflect.DeepEqual(list, want) {
			t.Errorf("blocked machines: got %+v, want %+v", list, want)
		}
		if err := n.server.unblock(t.Context(), "a"); err != nil || back() != "" {
			t.Errorf("unblocked, but refused: %v", err)
		}
		n.refuseWaitingLogin(p)
	})
}

// refuseWaitingLogin checks that a login of a blocked machine cannot be approved.
func (n *testNet) refuseWaitingLogin(p *peer) {
	n.t.Helper()
	p.node = key.NewNodePrivate()
	resp, refused := p.register(func(r *control.RegisterRequest) {})
	if refused != "" {
		n.t.Fatal(refused)
	}
	if err := n.server.deleteNode(n.t.Context(), n.nodes()[0].ID, returnBlocked); err != nil {
		n.t.Fatal(err)
	}
	id := strings.TrimPrefix(resp.AuthURL, testURL+loginPath)
	if _, err := n.server.ApproveLogin(n.t.Context(), id, "alice"); err == nil {
		n.t.Error("a login of a blocked machine was approved")
	}
}
