package node

import (
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/key"
)

// disk stands for a node's state directory.
type disk struct {
	mu       sync.Mutex
	identity Identity
	netmap   []byte
}

// use makes a configuration save its state on the disk.
func (d *disk) use(c *Config) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.Control.Identity = d.identity
	c.Control.Save = func(id Identity) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.identity = id
		return nil
	}
	c.Control.SaveMap = func(b []byte) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.netmap = b
		return nil
	}
	c.Control.LastMap = func() ([]byte, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		return slices.Clone(d.netmap), nil
	}
}

// cutOff keeps a node from reaching its server while away is true.
func cutOff(away *atomic.Bool) func(*Config) {
	return func(c *Config) {
		server, _ := url.Parse(c.Control.URL)
		c.OutboundProxy = func(u *url.URL) (*url.URL, error) {
			if away.Load() && u.Host == server.Host {
				return nil, errors.New("the server is away")
			}
			return nil, nil
		}
	}
}

func hasIssue(s Status, code string) bool {
	return slices.ContainsFunc(s.Health, func(i HealthIssue) bool { return i.Code == code })
}

// While the server cannot be reached, a node starts with its saved map, reaches peers, and reports
// the problem. Later it continues with the server's map.
func TestStartOnLastMap(t *testing.T) {
	n := newNetwork(t)
	b := n.join("beta")
	b.serveHTTP(80, "beta")
	var d disk
	var away atomic.Bool
	a := n.join("alpha", d.use)
	eventually(t, "alpha knows beta", func() bool { return len(a.Status().Peers) == 1 })
	if got, err := a.get("http://beta/"); got != "beta" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	a.Close()

	away.Store(true)
	a = n.join("alpha", d.use, cutOff(&away))
	if got, err := a.get("http://beta/"); got != "beta" || err != nil {
		t.Errorf("while the server is away: %q, %v", got, err)
	}
	if s := a.Status(); s.State != StateRunning || !hasIssue(s, "control-unreachable") {
		t.Errorf("while the server is away: %v, %v", s.State, s.Health)
	}
	away.Store(false)
	eventually(t, "alpha speaks with the server", func() bool { return !hasIssue(a.Status(), "control-unreachable") })
	if got, err := a.get("http://beta/"); got != "beta" || err != nil {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

// A node that was removed meanwhile drops its peers as soon as it hears from the server.
func TestRemovedNodeStartsOnLastMap(t *testing.T) {
	n := newNetwork(t)
	n.join("beta").serveHTTP(80, "beta")
	var d disk
	var away atomic.Bool
	a := n.join("alpha", d.use)
	eventually(t, "alpha knows beta", func() bool { return len(a.Status().Peers) == 1 })
	id := a.id()
	a.Close()
	n.admin("DELETE", "/api/v1/nodes/"+id, "")

	away.Store(true)
	a = n.join("alpha", d.use, cutOff(&away), func(c *Config) { c.Control.AuthKey = "" })
	eventually(t, "alpha runs on its last map", func() bool { return len(a.Status().Peers) == 1 })
	away.Store(false)
	eventually(t, "alpha has no peers, and has to be approved", func() bool {
		s := a.Status()
		return s.State == StateNeedsLogin && len(s.Peers) == 0
	})
}

// A saved map is used only by the node and for the server that it belongs to, for a limited time,
// and until the node's key expires.
func TestLastMapIsLimited(t *testing.T) {
	now := time.Now()
	node, other := newPublicKey(), newPublicKey()
	nm := func(expiry time.Time) *control.NetMap {
		return &control.NetMap{Self: &control.Node{ID: 1, Key: node, KeyExpiry: expiry}, ClockSkew: -time.Hour,
			DERPMap: &control.DERPMap{}}
	}
	for _, tt := range []struct {
		name   string
		expiry time.Time
		node   key.NodePublic
		url    string
		after  time.Duration
		want   string // in the error; empty: the map is used
	}{
		{name: "at once", node: node, url: "http://a"},
		{name: "after a while", node: node, url: "http://a", after: lastMapAge},
		{name: "too late", node: node, url: "http://a", after: lastMapAge + time.Second,
			want: "must not be older than 24h0m0s"},
		{name: "a clock that was put back", node: node, url: "http://a", after: -time.Hour,
			want: "must not be older than 24h0m0s"},
		{name: "another node", node: other, url: "http://a", want: "of another node or server"},
		{name: "another server", node: node, url: "http://b", want: "of another node or server"},
		{name: "the key holds, by the server's clock", node: node, url: "http://a", expiry: now.Add(-30 * time.Minute)},
		{name: "the key has expired", node: node, url: "http://a", after: time.Hour, expiry: now.Add(-30 * time.Minute),
			want: "key has expired"},
	} {
		var d disk
		cfg := Config{Control: &Control{URL: "http://a"}}
		d.use(&cfg)
		k := mapKeeper{cfg: cfg.Control}
		if err := k.note(nm(tt.expiry), now); err != nil {
			t.Fatal(err)
		}
		cfg.Control.URL = tt.url
		got, saved, err := k.load(tt.node, now.Add(tt.after))
		switch {
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		case tt.want == "" && (err != nil || got.Self.Key != node || !saved.Equal(now)):
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	damaged := mapKeeper{cfg: &Control{LastMap: func() ([]byte, error) { return []byte("{"), nil }}}
	if _, _, err := damaged.load(node, now); err == nil || errors.Is(err, errNoLastMap) {
		t.Errorf("a damaged file: %v", err)
	}
}

// A map that keeps changing is saved once a minute at most, and once more at the end.
func TestMapIsSavedSeldom(t *testing.T) {
	now := time.Now()
	var saved []string
	k := mapKeeper{cfg: &Control{SaveMap: func(b []byte) error {
		var s savedMap
		err := json.Unmarshal(b, &s)
		saved = append(saved, s.Map.Domain)
		return err
	}}}
	for i, domain := range []string{"a", "b", "c", "d"} {
		nm := &control.NetMap{Self: &control.Node{}, Domain: domain}
		if err := k.note(nm, now.Add(time.Duration(i)*40*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(k.flush(now), k.flush(now)); err != nil || !slices.Equal(saved, []string{"a", "c", "d"}) {
		t.Errorf("saved %q, %v, want a, c, d", saved, err)
	}
}

// Without the server, a peer is dropped once its key has expired, and all peers once the node's own
// key has.
func TestExpiryWithoutServer(t *testing.T) {
	n := newNetwork(t)
	n.join("beta")
	a := n.join("alpha")
	eventually(t, "alpha knows beta", func() bool { return len(a.Status().Peers) == 1 })
	m := a.member
	m.talk.stop()
	now := time.Now()
	m.mu.Lock()
	nm := *m.netmap
	m.mu.Unlock()
	self, peer := *nm.Self, *nm.Peers[0]
	self.KeyExpiry, peer.KeyExpiry = now.Add(time.Hour), now.Add(time.Second/2)
	nm.Self, nm.Peers, nm.ClockSkew = &self, []*control.Node{&peer}, 0
	m.apply(&nm)
	if m.honourExpiry(now); len(a.Status().Peers) != 1 {
		t.Error("the peer was left out too early")
	}
	time.Sleep(time.Until(peer.KeyExpiry) + 10*time.Millisecond)
	if m.honourExpiry(time.Now()); len(a.Status().Peers) != 0 {
		t.Error("the peer whose key has expired is still there")
	}
	peer.KeyExpiry = now.Add(2 * time.Hour)
	m.apply(&nm)
	if m.honourExpiry(now.Add(time.Hour)); len(a.Status().Peers) != 0 {
		t.Error("peers are still there though the node's own key has expired")
	}
}
