package server

import (
	"testing"
	"time"

	"ginnel/control"
	"ginnel/key"
)

func TestJoinByKey(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a := n.join("node-a", k)
		b := n.join("Node B.local", k)
		self := a.self()
		if self.Name != "node-a.net.test." || !self.MachineAuthorized || len(self.Addresses) != 2 {
			t.Errorf("a's own node: %+v", self)
		}
		seen := a.sees("node-b")
		if seen == nil || seen.Key != b.node.Public() || seen.DiscoKey != b.disco || !online(seen) {
			t.Fatalf("a sees b as %+v", seen)
		}
		if seen.Addresses[0] == self.Addresses[0] || seen.Addresses[1] == self.Addresses[1] {
			t.Errorf("both nodes have the addresses %v", seen.Addresses)
		}
		m, _ := b.latestMap()
		if b.sees("node-a") == nil || m.DERPMap.Regions[900] == nil || !m.DNS.Proxied || m.Domain != "net.test" {
			t.Errorf("b's map is incomplete: %+v", m)
		}
		if len(m.Filter) == 0 || m.Users[self.User].LoginName != "alice" {
			t.Errorf("b's filter %v, users %v", m.Filter, m.Users)
		}
	})
}

// Scripts match the texts of refusals.
func TestKeyRefusals(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		once := n.authKey(func(r *AuthKeyRequest) { r.Reusable = false })
		short := n.authKey(func(r *AuthKeyRequest) { r.Expiry = time.Now().Add(time.Minute) })
		n.join("first", once)
		if _, refused := n.newPeer("second").register(withKey(once)); refused != "authkey already used" {
			t.Errorf("used key: %q", refused)
		}
		if _, refused := n.newPeer("x").register(withKey("ginnel-auth-0")); refused != "invalid pre auth key" {
			t.Errorf("unknown key: %q", refused)
		}
		_, refused := n.newPeer("x").register(func(r *control.RegisterRequest) {
			withKey(short)(r)
			r.NodeKey = key.NodePublic{0: 1}
		})
		if refused != "the request's node key is a point of low order, which nobody can have a private key for" {
			t.Errorf("node key of low order: %q", refused)
		}
		time.Sleep(2 * time.Minute)
		if _, refused := n.newPeer("x").register(withKey(short)); refused != "authkey expired" {
			t.Errorf("expired key: %q", refused)
		}
		revoked := n.authKey(nil)
		keys, _ := n.server.listKeys(t.Context(), "alice", pageRequest{})
		if _, err := n.server.expireKey(t.Context(), keys.Items[len(keys.Items)-1].ID); err != nil {
			t.Fatal(err)
		}
		if _, refused := n.newPeer("x").register(withKey(revoked)); refused != "authkey expired" {
			t.Errorf("key that was made to expire: %q", refused)
		}
		if got := len(n.nodes()); got != 1 {
			t.Errorf("%d nodes, want 1", got)
		}
	})
}

// "The same request may be repeated" (4.3): a used key stays valid for the node that used it.
func TestRegisterAgainWithUsedKey(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		once := n.authKey(func(r *AuthKeyRequest) { r.Reusable = false })
		p := n.join("a", once)
		if _, refused := p.register(withKey(once)); refused != "" {
			t.Error(refused)
		}
	})
}

func TestInteractive(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		p := n.newPeer("laptop")
		resp, _ := p.register(nil)
		if resp.MachineAuthorized || resp.AuthURL == "" {
			t.Fatalf("got %+v, want an AuthURL", resp)
		}
		if again, _ := p.register(nil); again.AuthURL != resp.AuthURL {
			t.Errorf("the repeated request got another URL: %q and then %q", resp.AuthURL, again.AuthURL)
		}
		var done *control.RegisterResponse
		p.wg.Go(func() { done, _ = p.register(func(r *control.RegisterRequest) { r.Followup = resp.AuthURL }) })
		settle()
		logins, err := n.server.listLogins(t.Context())
		if err != nil || len(logins.Items) != 1 || logins.Items[0].Hostname != "laptop" {
			t.Fatalf("waiting: %+v, %v", logins, err)
		}
		if _, err := n.server.ApproveLogin(t.Context(), logins.Items[0].ID, "nobody"); err == nil {
			t.Error("approved for a user who does not exist")
		}
		if _, err := n.server.ApproveLogin(t.Context(), logins.Items[0].ID, "alice"); err != nil {
			t.Fatal(err)
		}
		p.wg.Wait()
		if !done.MachineAuthorized || done.Login.LoginName != "alice" {
			t.Errorf("after approval: %+v", done)
		}
	})
}

func TestLoginRefusedAndExpired(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		p := n.newPeer("laptop")
		resp, _ := p.register(nil)
		var refused string
		p.wg.Go(func() { _, refused = p.register(func(r *control.RegisterRequest) { r.Followup = resp.AuthURL }) })
		settle()
		if err := n.server.refuseLogin(t.Context(), resp.AuthURL[len(testURL+loginPath):]); err != nil {
			t.Fatal(err)
		}
		p.wg.Wait()
		if refused == "" {
			t.Error("the node was not told of the refusal")
		}
		resp, _ = p.register(nil)
		var later *control.RegisterResponse
		p.wg.Go(func() { later, _ = p.register(func(r *control.RegisterRequest) { r.Followup = resp.AuthURL }) })
		time.Sleep(loginLife + time.Second)
		p.wg.Wait()
		if later == nil || later.AuthURL == "" || later.AuthURL == resp.AuthURL {
			t.Errorf("after the login expired: %+v, want another URL", later)
		}
		malformed := func(r *control.RegisterRequest) { r.Followup = testURL + "/register/../x" }
		if _, refused := p.register(malformed); refused == "" {
			t.Error("a malformed followup URL was accepted")
		}
	})
}

func TestRestart(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		p := n.join("a", n.authKey(nil))
		before := n.node("a")
		key := n.server.PublicKey()
		n.restart()
		if n.server.PublicKey() != key {
			t.Error("the server has another key")
		}
		p.leave()
		p.dial()
		resp, refused := p.register(nil)
		if refused != "" || !resp.MachineAuthorized || resp.Login.LoginName != "alice" {
			t.Errorf("got %+v, %s", resp, refused)
		}
		p.stream()
		settle()
		after := n.node("a")
		if after.ID != before.ID || after.Addresses[0] != before.Addresses[0] || p.self().DiscoKey != p.disco {
			t.Errorf("before %+v\nafter %+v", before, after)
		}
		if b := n.join("b", n.authKey(nil)); b.self().ID == before.ID || b.self().Addresses[0] == p.self().Addresses[0] {
			t.Error("an ID or address was assigned twice")
		}
	})
}

// Key rotation keeps ID, addresses and name. Peers receive a patch, and the old key becomes
// unknown.
func TestRotation(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a, b := n.join("a", k), n.join("b", k)
		before, old := b.sees("a"), a.node
		a.node = key.NewNodePrivate()
		if _, refused := a.register(withKey(k)); refused != "" {
			t.Fatal(refused)
		}
		settle()
		after := b.sees("a")
		if after == nil || after.ID != before.ID || after.Key != a.node.Public() ||
			after.Addresses[0] != before.Addresses[0] {
			t.Errorf("before %+v\nafter %+v", before, after)
		}
		a.node = old
		if err := a.Update(t.Context(), a.mapRequest()); err == nil {
			t.Error("the old key still updates")
		}
	})
}

func TestNodeKeyOfOtherMachine(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		a := n.join("a", n.authKey(nil))
		thief := n.newPeer("thief")
		thief.node = a.node
		if _, refused := thief.register(nil); refused != "node exists with a different machine key" {
			t.Errorf("registering: %q", refused)
		}
		if _, refused := thief.register(withKey(n.authKey(nil))); refused != "node exists with a different machine key" {
			t.Errorf("registering with a key: %q", refused)
		}
		if err := thief.Logout(t.Context(), thief.request()); err == nil {
			t.Error("logged out a node of another machine")
		}
		if err := thief.Update(t.Context(), thief.mapRequest()); err == nil {
			t.Error("updated a node of another machine")
		}
	})
}

func TestLogout(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a, b := n.join("a", k), n.join("b", k)
		if err := a.Logout(t.Context(), a.request()); err != nil {
			t.Fatal(err)
		}
		settle()
		if seen := b.sees("a"); seen == nil || !seen.Expired {
			t.Errorf("b sees a as %+v, want it expired", seen)
		}
		if resp, _ := a.register(nil); !resp.NodeKeyExpired {
			t.Errorf("coming back: %+v, want NodeKeyExpired", resp)
		}
		e := n.join("job", n.authKey(func(r *AuthKeyRequest) { r.Ephemeral = true }))
		if err := e.Logout(t.Context(), e.request()); err != nil {
			t.Fatal(err)
		}
		settle()
		if b.sees("job") != nil || len(n.nodes()) != 2 {
			t.Error("an ephemeral node exists after logging out")
		}
		past := func(r *control.RegisterRequest) { r.Expiry = time.Now().Add(-time.Hour) }
		if resp, _ := n.newPeer("x").register(past); !resp.NodeKeyExpired {
			t.Errorf("logging out an unknown node: %+v", resp)
		}
		if logins, err := n.server.listLogins(t.Context()); err != nil || len(logins.Items) != 0 {
			t.Errorf("after logging out there are the logins %+v, %v", logins.Items, err)
		}
	})
}

func TestKeyExpiry(t *testing.T) {
	onNet(t, func(c *Config) { c.NodeExpiry = time.Hour }, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a := n.join("a", k)
		tagged := n.join("b", n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:ci"} }))
		time.Sleep(time.Hour)
		settle()
		if seen := tagged.sees("a"); seen == nil || !seen.Expired {
			t.Errorf("the peer sees %+v, want it expired", seen)
		}
		if self := a.self(); !self.Expired {
			t.Errorf("the node sees itself as %+v, want it expired", self)
		}
		if tagged.self().Expired {
			t.Error("a node with tags has expired")
		}
		if resp, _ := a.register(nil); !resp.NodeKeyExpired {
			t.Errorf("got %+v, want NodeKeyExpired", resp)
		}
		a.node = key.NewNodePrivate()
		a.register(withKey(k))
		settle()
		if seen := tagged.sees("a"); seen.Expired || seen.Key != a.node.Public() {
			t.Errorf("after the rotation the peer sees %+v", seen)
		}
	})
}

// A waiting login survives a restart of the server.
func TestLoginAndRestart(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		p := n.newPeer("laptop")
		resp, _ := p.register(func(r *control.RegisterRequest) { r.Ephemeral = true })
		n.restart()
		settle() // until the client has noticed
		if _, err := n.server.ApproveLogin(t.Context(), resp.AuthURL[len(testURL+loginPath):], "alice"); err != nil {
			t.Fatal(err)
		}
		done, refused := p.register(func(r *control.RegisterRequest) { r.Followup = resp.AuthURL })
		if refused != "" || !done.MachineAuthorized || !n.node("laptop").Ephemeral {
			t.Errorf("got %+v %s, node %+v", done, refused, n.node("laptop"))
		}
	})
}

// The key of a node that loses its tags expires like the keys of users' nodes.
func TestTagAndMove(t *testing.T) {
	onNet(t, func(c *Config) { c.NodeExpiry = time.Hour }, func(t *testing.T, n *testNet) {
		p := n.newPeer("a")
		p.register(withKey(n.authKey(func(r *AuthKeyRequest) { r.Tags = []string{"tag:ci"} })))
		a := n.node("a")
		if _, err := n.server.tagNode(t.Context(), a.ID, []string{"tag:x"}); err != nil {
			t.Error(err)
		}
		if _, err := n.server.CreateUser(t.Context(), "bob", ""); err != nil {
			t.Fatal(err)
		}
		moved, err := n.server.moveNode(t.Context(), a.ID, "bob")
		if want := time.Now().Add(time.Hour); err != nil || !moved.Expiry.Equal(want) {
			t.Errorf("moved to a user: expires %v, want %v; %v", moved.Expiry, want, err)
		}
	})
}
