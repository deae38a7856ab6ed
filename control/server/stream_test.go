package server

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/control/store"
)

// A change of one node costs each other node one frame, which contains nothing else.
func TestDelta(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a, b := n.join("a", k), n.join("b", k)
		settle()
		before, frames := b.latestMap()
		ep := netip.MustParseAddrPort("192.0.2.1:41641")
		a.host.NetInfo = &control.NetInfo{PreferredDERP: 900}
		a.update(func(r *control.MapRequest) {
			r.Endpoints = []netip.AddrPort{
				ep, netip.MustParseAddrPort("[fe80::1]:1"), netip.MustParseAddrPort("[fe80::1%eth0]:1"),
			}
		})
		settle()
		after, now := b.latestMap()
		seen := after.Peer(a.self().ID)
		if len(seen.Endpoints) != 1 || seen.Endpoints[0] != ep || seen.HomeDERP != 900 {
			t.Errorf("b sees the endpoints %v and the home region %d", seen.Endpoints, seen.HomeDERP)
		}
		if now != frames+1 || after.DNS != before.DNS || after.DERPMap != before.DERPMap {
			t.Errorf("%d frames, want 1", now-frames)
		}
		a.update(func(r *control.MapRequest) { r.Endpoints = []netip.AddrPort{} })
		settle()
		if seen := b.sees("a"); len(seen.Endpoints) != 0 {
			t.Errorf("cleared endpoints are still there: %v", seen.Endpoints)
		}
	})
}

// "Apply state from updates; from a stream request take a value only if nothing is stored yet"
// (5.1).
func TestStreamDoesNotOverwrite(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a, b := n.join("a", k), n.join("b", k)
		known := a.disco
		a.endStream()
		a.disco, a.host.Hostname = b.disco, "renamed"
		a.stream()
		settle()
		if seen := b.sees("a"); seen == nil || seen.DiscoKey != known {
			t.Errorf("after a stream with older state b sees %+v", seen)
		}
	})
}

// Changed DNS settings are sent in one frame, and to nodes that join later.
func TestSetDNS(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a := n.join("a", k)
		_, frames := a.latestMap()
		if err := n.server.SetDNS(t.Context(), control.DNSConfig{
			Domains: []string{"corp.example"}, Routes: map[string][]control.Resolver{"corp.example": {}},
		}); err != nil {
			t.Fatal(err)
		}
		settle()
		if _, now := a.latestMap(); now != frames+1 {
			t.Errorf("%d frames, want 1", now-frames)
		}
		for _, p := range []*peer{a, n.join("b", k)} {
			m, _ := p.latestMap()
			servers, routed := m.DNS.Routes["corp.example"]
			if !m.DNS.Proxied || !slices.Equal(m.DNS.Domains, []string{"net.test", "corp.example"}) ||
				!routed || len(servers) != 0 {
				t.Errorf("%s has %+v", p.host.Hostname, m.DNS)
			}
		}
	})
}

// Nodes may send files to each other (Taildrop), whatever attributes the policy gives.
func TestFileSharing(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		a := n.join("a", n.authKey(nil))
		expect := func(names ...string) {
			t.Helper()
			settle()
			got := slices.Sorted(maps.Keys(a.self().CapMap))
			if slices.Sort(names); !slices.Equal(got, names) {
				t.Errorf("attributes %q, want %q", got, names)
			}
		}
		const files = "https://tailscale.com/cap/file-sharing"
		expect(files)
		const attrs = `{"nodeAttrs": [{"target": ["*"], "attr": ["custom:x"]}]}`
		if _, err := n.server.LoadPolicy(t.Context(), []byte(attrs)); err != nil {
			t.Fatal(err)
		}
		expect(files, "custom:x")
	})
}

func TestHostRenamed(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a, b, watcher := n.join("x", k), n.join("x", k), n.join("w", k)
		if watcher.sees("x-1") == nil {
			t.Error("two nodes with one name")
		}
		b.host.Hostname = "y"
		b.update(nil)
		settle()
		if watcher.sees("y") == nil || watcher.sees("x-1") != nil {
			t.Error("the name does not follow the host's")
		}
		if _, err := n.server.renameNode(t.Context(), a.self().ID, "given"); err != nil {
			t.Fatal(err)
		}
		a.host.Hostname = "z"
		a.update(nil)
		settle()
		if watcher.sees("given") == nil {
			t.Error("an administrator's name did not survive")
		}
	})
}

// A second stream ends the first, and other nodes do not notice.
func TestSuperseded(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a, b := n.join("a", k), n.join("b", k)
		_, before := b.latestMap()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		second := make(chan struct{})
		a.wg.Go(func() {
			for range a.Poll(ctx, a.mapRequest()) {
				select {
				case <-second:
				default:
					close(second)
				}
			}
		})
		<-second
		time.Sleep(time.Minute)
		settle()
		if a.err == nil {
			t.Error("the first stream has not ended")
		}
		if _, after := b.latestMap(); !online(b.sees("a")) || after != before {
			t.Errorf("b received %d frames, want none", after-before)
		}
		cancel()
		a.wg.Wait()
	})
}

// A node is offline once it has been absent for the grace period. If it returns in time, it is
// never shown as offline.
func TestOffline(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a, b := n.join("a", k), n.join("b", k)
		a.endStream()
		time.Sleep(defaultOfflineGrace / 2)
		if !online(b.sees("a")) {
			t.Error("offline immediately")
		}
		a.stream()
		time.Sleep(defaultOfflineGrace)
		if !online(b.sees("a")) {
			t.Error("offline although it came back")
		}
		a.endStream()
		gone := time.Now()
		time.Sleep(defaultOfflineGrace + time.Second)
		settle()
		if seen := b.sees("a"); seen == nil || online(seen) || seen.LastSeen.Sub(gone).Abs() > time.Second {
			t.Errorf("after the grace period: %+v", seen)
		}
		a.stream()
		settle()
		if !online(b.sees("a")) {
			t.Error("not online again")
		}
	})
}

func TestEphemeral(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		b := n.join("b", n.authKey(nil))
		k := n.authKey(func(r *AuthKeyRequest) { r.Ephemeral = true })
		a := n.join("job", k)
		neverPolled := n.newPeer("never")
		neverPolled.register(withKey(k))
		time.Sleep(10 * defaultEphemeralTimeout)
		if b.sees("job") == nil {
			t.Error("removed while it was connected")
		}
		if b.sees("never") != nil {
			t.Error("a node that never polled was not removed")
		}
		a.endStream()
		time.Sleep(defaultEphemeralTimeout - time.Second)
		if b.sees("job") == nil {
			t.Error("removed before the timeout")
		}
		time.Sleep(2 * time.Second)
		settle()
		if b.sees("job") != nil || len(n.nodes()) != 1 {
			t.Error("not removed after the timeout")
		}
		// After a restart of the server, a node that does not return is still removed.
		a = n.newPeer("job")
		a.register(withKey(k))
		n.restart()
		time.Sleep(defaultEphemeralTimeout + time.Second)
		settle()
		if len(n.nodes()) != 1 {
			t.Error("not removed after a restart")
		}
	})
}

// An idle stream gets keepalives often enough for the client's watchdog.
func TestKeepAlive(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		a := n.join("a", n.authKey(nil))
		time.Sleep(30 * time.Minute)
		settle()
		if a.err != nil {
			t.Errorf("the stream ended: %v", a.err)
		}
	})
}

// Keepalives come after 20 to 24 s, which is below the idle limits of nginx and HAProxy, and not
// all at once.
func TestKeepAliveInterval(t *testing.T) {
	least, most := time.Hour, time.Duration(0)
	for range 10_000 {
		d := keepAliveIn()
		least, most = min(least, d), max(most, d)
	}
	if least < 20*time.Second || most >= 24*time.Second || most-least < 3*time.Second {
		t.Errorf("between %v and %v, want between 20s and 24s, spread", least, most)
	}
	onNet(t, nil, func(t *testing.T, n *testNet) {
		n.join("a", n.authKey(nil))
		settle()
		count := func() int { return counter(t, n, "ginnel_control_frames_total") } // nothing else is written
		const step = 100 * time.Millisecond
		last, waited := count(), time.Duration(0)
		for seen := 0; seen < 10; waited += step {
			time.Sleep(step)
			if waited > 25*time.Second {
				t.Fatalf("no keepalive for %v", waited)
			}
			if now := count(); now != last {
				if seen > 0 && waited < 20*time.Second-2*step { // of the first the beginning is not known
					t.Errorf("a keepalive after %v", waited)
				}
				last, waited, seen = now, 0, seen+1
			}
		}
	})
}

func TestDeletedNode(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a, b := n.join("a", k), n.join("b", k)
		if err := n.server.deleteNode(t.Context(), a.self().ID, returnAllowed); err != nil {
			t.Fatal(err)
		}
		settle()
		if b.sees("a") != nil || a.err == nil {
			t.Errorf("after deletion: b sees %v, the stream ended with %v", b.sees("a"), a.err)
		}
		if err := a.Update(t.Context(), a.mapRequest()); err == nil {
			t.Error("a deleted node updates")
		}
	})
}

// Requests that are too large, too old or from unknown nodes are refused, and the connection stays
// open.
func TestBadRequests(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		a := n.join("a", n.authKey(nil))
		host := a.host
		for name, h := range map[string]control.Hostinfo{
			"oversize body": {OS: strings.Repeat("x", maxBody)},
			"oversize host": {OS: strings.Repeat("x", maxHostinfo)},
		} {
			a.host = h
			if err := a.Update(t.Context(), a.mapRequest()); err == nil {
				t.Errorf("%s: not refused", name)
			}
		}
		a.host = host
		a.update(nil)
		if a.err != nil {
			t.Errorf("the stream ended: %v", a.err)
		}
	})
}

// While the store fails, commands that write fail with a clear error and leave nothing behind.
// Everything else works.
func TestStoreFails(t *testing.T) {
	onNet(t, func(c *Config) { c.Store = &failingStore{Memory: c.Store.(*store.Memory)} }, func(t *testing.T, n *testNet) {
		failing := n.cfg.Store.(*failingStore)
		k := n.authKey(nil)
		a, b := n.join("a", k), n.join("b", k)
		failing.err.Store(&errDiskFull)
		if _, err := n.server.CreateUser(t.Context(), "bob", ""); err == nil || !strings.Contains(err.Error(), "no space") {
			t.Errorf("creating a user: %v", err)
		}
		c := n.newPeer("c")
		req := c.request()
		withKey(k)(&req)
		if _, err := c.Register(t.Context(), req); err == nil {
			t.Error("registered although the store failed")
		}
		b.endStream()
		b.stream()
		settle()
		if m, _ := b.latestMap(); b.err == nil && len(m.Peers) != 1 || b.sees("a") == nil {
			t.Errorf("no stream begins while the store fails: %v", b.err)
		}
		if loads := failing.loads.Load(); loads != 1 {
			t.Errorf("the whole state was read %d times, want once: it has not changed", loads)
		}
		failing.err.Store(nil)
		if u, err := n.server.CreateUser(t.Context(), "bob", ""); err != nil || u.ID != 2 {
			t.Errorf("after the store recovered: %+v, %v", u, err)
		}
		if _, refused := c.register(withKey(k)); refused != "" {
			t.Error(refused)
		}
		settle()
		if a.sees("c") == nil || len(n.nodes()) != 3 {
			t.Errorf("%d nodes, want 3", len(n.nodes()))
		}
	})
}

// If a write takes effect although it returned an error, the server notices. Nothing is assigned
// twice.
func TestStoreErrorAfterWrite(t *testing.T) {
	onNet(t, func(c *Config) { c.Store = &failingStore{Memory: c.Store.(*store.Memory)} }, func(t *testing.T, n *testNet) {
		failing := n.cfg.Store.(*failingStore)
		k := n.authKey(nil)
		a := n.join("a", k)
		failing.lie.Store(true)
		failing.err.Store(&errDiskFull)
		b := n.newPeer("b")
		req := b.request()
		withKey(k)(&req)
		if _, err := b.Register(t.Context(), req); err == nil {
			t.Error("registered in spite of an error")
		}
		failing.err.Store(nil)
		c := n.join("c", k)
		if _, refused := b.register(withKey(k)); refused != "" {
			t.Error(refused)
		}
		settle()
		if seen := a.sees("b"); seen == nil || a.sees("c") == nil || seen.ID == c.self().ID || len(n.nodes()) != 3 {
			t.Errorf("b is %+v, c is %+v", seen, c.self())
		}
		if a.err != nil || !online(c.sees("a")) {
			t.Errorf("a's stream ended: %v", a.err)
		}
	})
}

// The relay map and the names of users can change while streams are open.
func TestRelaysAndUsersChange(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		a := n.join("a", n.authKey(nil))
		_, before := a.latestMap()
		relays := control.DERPMap{Regions: map[int]*control.DERPRegion{901: {RegionID: 901, RegionCode: "other"}}}
		if err := n.server.SetDERPMap(t.Context(), relays); err != nil {
			t.Fatal(err)
		}
		settle()
		if m, _ := a.latestMap(); m.DERPMap.Regions[901] == nil || m.DERPMap.Regions[900] != nil {
			t.Errorf("the relays are %v", m.DERPMap.Regions)
		}
		if _, err := n.server.renameUser(t.Context(), 1, "eve", "Eve"); err != nil {
			t.Fatal(err)
		}
		settle()
		m, frames := a.latestMap()
		if m.Users[m.Self.User].LoginName != "eve" || frames != before+2 {
			t.Errorf("the users are %v after %d frames", m.Users, frames-before)
		}
		if b := n.join("b", n.authKey(func(r *AuthKeyRequest) { r.User = "eve" })); b.self().User != m.Self.User {
			t.Error("a renamed user has another ID")
		}
	})
}

// Renaming a user takes effect in the policy at once: no rule applies to the nodes under the
// new name.
func TestUserRenamedUnderPolicy(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		k := n.authKey(nil)
		a, b := n.join("a", k), n.join("b", k)
		n.setPolicy(`{"acls": [{"action": "accept", "src": ["alice@"], "dst": ["alice@:*"]}]}`)
		settle()
		if a.sees("b") == nil {
			t.Error("alice's nodes do not see each other")
		}
		if _, err := n.server.renameUser(t.Context(), 1, "eve", ""); err != nil {
			t.Fatal(err)
		}
		settle()
		if m, _ := b.latestMap(); a.sees("b") != nil || len(m.Filter) != 0 {
			t.Errorf("the nodes still see each other, or their packet filters are not empty: %v", m.Filter)
		}
		if _, err := n.server.moveNode(t.Context(), a.self().ID, "alice"); err == nil {
			t.Error("moved to a user who does not exist")
		}
	})
}

// A user is sent with the user's first node, however long ago the user was created, and not before.
func TestUserBeforeNodes(t *testing.T) {
	onNet(t, nil, func(t *testing.T, n *testNet) {
		a := n.join("a", n.authKey(nil))
		_, before := a.latestMap()
		if _, err := n.server.CreateUser(t.Context(), "bob", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		settle()
		if _, after := a.latestMap(); after != before {
			t.Errorf("received %d frames about a user without nodes", after-before)
		}
		b := n.join("b", n.authKey(func(r *AuthKeyRequest) { r.User = "bob" }))
		for _, p := range []*peer{a, b} {
			if m, _ := p.latestMap(); m.Users[1].LoginName != "alice" || m.Users[2].LoginName != "bob" {
				t.Errorf("%s knows %v", p.host.Hostname, m.Users)
			}
		}
	})
}
