package server

import (
	"testing"
	"time"
)

// User names are compared without case. Two users of an older version whose names differ only in
// case stay distinct.
func TestUserNamesWithoutCase(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		ctx := t.Context()
		if _, err := n.server.CreateUser(ctx, "ALICE", ""); statusOf(err) != 409 {
			t.Errorf("a second alice: got %v, want a conflict", err)
		}
		if _, err := n.server.CreateUser(ctx, "Tagged-Devices", ""); statusOf(err) != 409 {
			t.Errorf("the name of the owner of tagged nodes: got %v, want a conflict", err)
		}
		k := n.authKey(func(r *AuthKeyRequest) { r.User = "Alice" })
		n.join("laptop", k)
		if p, err := n.server.listNodes(ctx, nodeFilter{user: "aLiCe"}, pageRequest{}); err != nil || len(p.Items) != 1 {
			t.Errorf("nodes of aLiCe: %+v, %v", p, err)
		}
		if u, err := n.server.renameUser(ctx, 1, "Alice", ""); err != nil || u.Name != "Alice" {
			t.Errorf("renamed: %+v, %v", u, err)
		}
		older := func(t *tx) error {
			t.count(counters{Node: 1, User: 2, AuthKey: 1, Address: t.counters.Address})
			t.putUser(&user{ID: 2, Name: "aLICE", Created: t.now})
			return nil
		}
		if err := n.server.core.change(ctx, older); err != nil {
			t.Fatal(err)
		}
		n.restart()
		settle()
		for name, id := range map[string]int64{"Alice": 1, "aLICE": 2} {
			if err := n.server.core.change(ctx, func(tx *tx) error {
				if u, err := tx.userNamed(name); err != nil || u.ID != id {
					t.Errorf("%s is %+v, %v", name, u, err)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.server.deleteUser(ctx, 2); err != nil {
			t.Fatal(err)
		}
		n.authKey(func(r *AuthKeyRequest) { r.User = "alice" })
	})
}

// A user can be deleted if all its nodes have tags and all its keys are invalid. The nodes remain.
func TestDeleteUserOfTaggedNodes(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		once := n.authKey(func(r *AuthKeyRequest) { r.Tags, r.Reusable = []string{"tag:ci"}, false })
		p := n.join("build", once)
		good := n.authKey(nil)
		if err := n.server.deleteUser(t.Context(), 1); statusOf(err) != 409 {
			t.Errorf("a user with a valid key: got %v, want a conflict", err)
		}
		if _, err := n.server.expireKey(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		if err := n.server.deleteUser(t.Context(), 1); err != nil {
			t.Fatalf("a user of tagged nodes: %v", err)
		}
		if list, err := n.server.listKeys(t.Context(), "", pageRequest{}); err != nil || len(list.Items) != 0 {
			t.Errorf("keys of the deleted user: %+v, %v", list, err)
		}
		if _, refused := n.newPeer("x").register(withKey(good)); refused != "invalid pre auth key" {
			t.Errorf("a key of a deleted user: %q", refused)
		}
		n.restart()
		p.leave()
		p.dial()
		p.stream()
		settle()
		if a := n.node("build"); !a.Online || a.User != "tagged-devices" {
			t.Errorf("the node is %+v", a)
		}
	})
}

// Creating a key deletes keys that have been invalid for long, except keys of registered nodes,
// because a node may use its key again.
func TestPrunedKeys(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		once := n.authKey(func(r *AuthKeyRequest) { r.Reusable = false })
		p := n.join("laptop", once)
		p.leave() // two months of keepalives would take long even in fake time
		short := n.authKey(func(r *AuthKeyRequest) { r.Expiry = time.Now().Add(time.Hour) })
		n.authKey(func(r *AuthKeyRequest) { r.Expiry = time.Now().Add(2 * invalidKeyRetention) })
		time.Sleep(invalidKeyRetention)
		n.authKey(nil)
		if _, refused := n.newPeer("x").register(withKey(short)); refused != "authkey expired" {
			t.Errorf("an expired key: %q", refused)
		}
		time.Sleep(2 * time.Hour)
		n.authKey(nil)
		list, err := n.server.listKeys(t.Context(), "", pageRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var ids []int64
		for _, k := range list.Items {
			ids = append(ids, k.ID)
		}
		if len(ids) != 4 || ids[0] != 1 || ids[1] != 3 {
			t.Errorf("the keys left are %v, want 1, 3, 4 and 5", ids)
		}
		p.dial()
		if _, refused := p.register(withKey(once)); refused != "" {
			t.Errorf("the node with its own key again: %q", refused)
		}
	})
}

// At the maximum number of keys, creating one deletes invalid keys at once.
func TestKeysMakeRoom(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		if err := n.server.core.change(t.Context(), func(t *tx) error {
			for i := range int64(maxKeys) { // in memory only, because the test just counts them
				hash := [32]byte{byte(i), byte(i >> 8), byte(i >> 16)}
				k := &authKey{ID: i + 1, User: 1, Hash: hash, Created: t.now, Expiry: t.now}
				t.keys[k.ID], t.byHash[k.Hash] = k, k.ID
			}
			t.count(counters{AuthKey: maxKeys, User: 1})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		n.authKey(nil)
		if err := n.server.core.change(t.Context(), func(tx *tx) error {
			if len(tx.keys) != maxKeys-maxPruned+1 {
				t.Errorf("got %d keys", len(tx.keys))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}
