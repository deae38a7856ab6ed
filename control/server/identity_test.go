package server

import (
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/internal/key"
)

// A node stays itself, with its number, address and name, when it logs in again as another user's
// or with other tags, by a key or approved by hand; what was approved for it before is not any
// more.
func TestMachineIsIdentity(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		n.setPolicy(`{"tagOwners": {"tag:ci": ["alice@"], "tag:db": []}, "acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`)
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
				if _, err := n.server.ApproveLogin(t.Context(), strings.TrimPrefix(resp.AuthURL, testURL+loginPath), user); err != nil {
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
				t.Fatalf("%s: there are %d nodes", c.name, len(got))
			}
			a := got[0]
			if a.ID != first.ID || a.Name != "build" || !slices.Equal(a.Addresses, first.Addresses) || a.NodeKey != p.node.Public() {
				t.Errorf("%s: the node has become %+v, it was %+v", c.name, a, first)
			}
			if a.User != c.owner || !slices.Equal(a.Tags, c.tags) || len(a.Routes.Approved) != 0 {
				t.Errorf("%s: it is %s's, with the tags %v and the routes %v", c.name, a.User, a.Tags, a.Routes.Approved)
			}
		}
	})
}

// Of several nodes that an older version gave a machine, the one that is meant goes on, and the
// others stay.
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

// A deleted node that is back at once is told of in the log; one whose machine is blocked stays
// out, also after a restart, until it is unblocked.
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
			t.Error("told of before it is back")
		}
		if refused := back(); refused != "" || !told() {
			t.Errorf("it is back, %q; the log has\n%s", refused, log.String())
		}
		log.Reset()
		remove(returnAllowed)
		time.Sleep(returnTime + time.Second)
		if back(); told() {
			t.Error("told of much later")
		}
		remove(returnBlocked)
		if refused := back(); refused != errBlocked.Error() {
			t.Errorf("blocked, it is answered %q", refused)
		}
		if _, refused := p.register(nil); refused != errBlocked.Error() {
			t.Errorf("blocked and without a key, it is answered %q", refused)
		}
		n.restart()
		settle()
		if refused := back(); refused != errBlocked.Error() {
			t.Errorf("after a restart it is answered %q", refused)
		}
		want := Page[Blocked]{Items: []Blocked{{p.machine.Public(), "a", time.Time{}}}}
		list, err := n.server.listBlocked(t.Context())
		if err != nil || len(list.Items) != 1 {
			t.Fatalf("blocked are %+v, %v", list, err)
		}
		if want.Items[0].Created = list.Items[0].Created; !reflect.DeepEqual(list, want) {
			t.Errorf("blocked are %+v, want %+v", list, want)
		}
		if err := n.server.unblock(t.Context(), "a"); err != nil || back() != "" {
			t.Errorf("unblocked it does not come in: %v", err)
		}
		n.refuseWaitingLogin(p)
	})
}

// refuseWaitingLogin checks that a login which waited when its machine was blocked cannot be
// approved.
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
	if _, err := n.server.ApproveLogin(n.t.Context(), strings.TrimPrefix(resp.AuthURL, testURL+loginPath), "alice"); err == nil {
		n.t.Error("a login of a blocked machine is approved")
	}
}
