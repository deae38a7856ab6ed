package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/control/server"
	"ginnel/control/store"
	"ginnel/proxy"
	"ginnel/relay"
)

// network is a mesh with a coordination server on loopback.
type network struct {
	*mesh
	t   testing.TB
	srv *server.Server
	url string
}

func newNetwork(t testing.TB, change ...func(*server.Config)) *network {
	t.Helper()
	n := &network{mesh: newMesh(t), t: t}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.url = "http://" + ln.Addr().String()
	st := store.NewMemory()
	cfg := server.Config{Store: st, URL: n.url, BaseDomain: "net.example", DERPMap: derpMap(&n.relays),
		Log: testLog(t, "server")}
	for _, f := range change {
		f(&cfg)
	}
	n.srv, err = server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	hs := &http.Server{Handler: n.srv}
	n.wg.Go(func() { hs.Serve(ln) })
	t.Cleanup(func() {
		n.srv.Close()
		hs.Close()
	})
	if _, err := n.srv.CreateUser(t.Context(), "ann", ""); err != nil {
		t.Fatal(err)
	}
	return n
}

// derpMap returns a relay map in the form in which servers send it.
func derpMap(m *relay.Map) control.DERPMap {
	out := control.DERPMap{Regions: make(map[int]*control.DERPRegion)}
	for id, r := range m.Regions {
		region := &control.DERPRegion{RegionID: id, RegionCode: r.RegionCode}
		for _, n := range r.Nodes {
			region.Nodes = append(region.Nodes,
				&control.DERPNode{Name: n.Name, RegionID: id, HostName: n.HostName, CertName: n.CertName,
					IPv6: n.IPv6, DERPPort: n.DERPPort, STUNPort: n.STUNPort})
		}
		out.Regions[id] = region
	}
	return out
}

func (n *network) authKey() string {
	n.t.Helper()
	k, err := n.srv.CreateAuthKey(n.t.Context(), server.AuthKeyRequest{User: "ann", Reusable: true})
	if err != nil {
		n.t.Fatal(err)
	}
	return k.Key
}

// join starts a node that joins with a pre-auth key.
func (n *network) join(name string, change ...func(*Config)) *member {
	n.t.Helper()
	m := &member{mesh: n.mesh, name: name}
	cfg := Config{UDPAddr: loopback, Log: testLog(n.t, name),
		Control: &Control{URL: n.url, AuthKey: n.authKey(), Hostname: name}}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if m.Node, err = New(cfg); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { m.Close() })
	return m
}

// Two nodes join with a key and find each other by name. A connection that is made while one of
// them is still joining waits, uses the relay at first, and soon the direct path.
func TestJoin(t *testing.T) {
	n := newNetwork(t)
	b := n.join("beta")
	b.serveHTTP(80, "beta")
	eventually(t, "beta has joined", func() bool { return b.Status().State == StateRunning })
	start := time.Now()
	a := n.join("alpha")
	if got, err := a.get("http://beta/"); got != "beta" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	t.Logf("first bytes %v after the start", time.Since(start).Round(time.Millisecond))
	for _, name := range []string{"beta.net.example", "BETA.NET.EXAMPLE."} {
		if got, err := a.get("http://" + name + "/"); got != "beta" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	eventually(t, "a direct path", func() bool { return a.Status().Peers[0].Path == PathDirect })
	s := a.Status()
	if s.Self.Name != "alpha" || len(s.Self.Addresses) != 2 || s.Self.Relay != "test" {
		t.Errorf("alpha is %+v", s.Self)
	}
	if p := s.Peers[0]; p.Name != "beta" || p.Online == nil || !*p.Online {
		t.Errorf("beta is %+v", p)
	}
	if _, err := a.DialContext(t.Context(), "tcp", "nobody.net.example:80"); err == nil ||
		!strings.Contains(err.Error(), "no such name in the mesh") {
		t.Errorf("a name that is none: %v", err)
	}
	if _, err := a.DialContext(t.Context(), "tcp", "100.99.99.99:80"); err == nil ||
		!strings.Contains(err.Error(), "no peer has this address") {
		t.Errorf("an address that is in no map: %v", err)
	}
}

// A node that restarts with its identity needs no key, and is the same node to others.
func TestRejoin(t *testing.T) {
	n := newNetwork(t)
	var kept Identity
	save := func(c *Config) { c.Control.Save = func(id Identity) error { kept = id; return nil } }
	a := n.join("alpha", save)
	eventually(t, "alpha has joined", func() bool { return a.Status().State == StateRunning })
	before := a.Status().Self
	a.Close()
	again := n.join("alpha", save, func(c *Config) { c.Control.Identity, c.Control.AuthKey = kept, "" })
	eventually(t, "alpha has joined again", func() bool { return again.Status().State == StateRunning })
	after := again.Status().Self
	if fmt.Sprint(after.Addresses) != fmt.Sprint(before.Addresses) || after.NodeKey != before.NodeKey {
		t.Errorf("came back as %+v, was %+v", after, before)
	}
	other := n.join("alpha", func(c *Config) {
		c.Control.Identity = Identity{URL: "http://other.example", Node: kept.Node, Machine: kept.Machine}
	})
	eventually(t, "the identity for another server has joined",
		func() bool { return other.Status().State == StateRunning })
	if other.Status().Self.NodeKey == before.NodeKey {
		t.Error("the identity that another server knows was used")
	}
}

// A server that refuses the node ends it, with the server's reason.
func TestJoinRefused(t *testing.T) {
	n := newNetwork(t)
	a := n.join("alpha", func(c *Config) { c.Control.AuthKey = "wrong" })
	if err := a.Run(t.Context()); !errors.Is(err, ErrJoinRefused) ||
		!strings.Contains(err.Error(), "invalid pre auth key") {
		t.Errorf("Run: %v", err)
	}
}

// While the server cannot be reached, connections wait, and report the reason when their time is
// over.
func TestJoinWithoutServer(t *testing.T) {
	n := newNetwork(t)
	a := n.join("alpha", func(c *Config) { c.Control.URL = "http://127.0.0.1:1" })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := a.DialContext(ctx, "tcp", "beta:80")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "not joined its network yet") ||
		!strings.Contains(err.Error(), "refused") {
		t.Errorf("dialling: %v", err)
	}
	if s := a.Status(); s.State != StateStarting || !strings.Contains(s.Reason, "refused") {
		t.Errorf("status: %v, %q", s.State, s.Reason)
	}
}

// Datagrams wait as long, too, and not for ever.
func TestDatagramsWithoutServer(t *testing.T) {
	n := newNetwork(t)
	a := n.join("alpha", func(c *Config) { c.Control.URL, c.DialTimeout = "http://127.0.0.1:1", 50*time.Millisecond })
	pc, err := a.dialer.listenDatagrams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	for _, dst := range []*proxy.Addr{{Name: "beta", Port: 7}, {IP: netip.MustParseAddr("100.64.0.9"), Port: 7}} {
		if _, err := pc.WriteTo([]byte("x"), dst); !errors.Is(err, context.DeadlineExceeded) ||
			!strings.Contains(err.Error(), "not joined its network yet") {
			t.Errorf("to %v: %v", dst, err)
		}
	}
}

// Without a key, a person has to approve the node.
func TestJoinByApproval(t *testing.T) {
	n := newNetwork(t)
	urls := make(chan string, 1)
	a := n.join("alpha", func(c *Config) { c.Control.AuthKey, c.Control.Login = "", func(url string) { urls <- url } })
	url := <-urls
	if s := a.Status(); s.State != StateNeedsLogin || !strings.Contains(s.Reason, url) {
		t.Errorf("status: %v, %q", s.State, s.Reason)
	}
	if _, err := n.srv.ApproveLogin(t.Context(), url[strings.LastIndex(url, "/")+1:], "ann"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "alpha has joined", func() bool { return a.Status().State == StateRunning })
}

// Closing a node that waits to be approved closes its connection to the server, which would go on
// waiting otherwise.
func TestCloseWaitingForApproval(t *testing.T) {
	n := newNetwork(t)
	front := newFront(t, n.url)
	urls := make(chan string, 1)
	a := n.join("alpha", func(c *Config) {
		c.Control.URL, c.Control.AuthKey, c.Control.Login = front.url, "", func(url string) { urls <- url }
	})
	<-urls
	if front.open() == 0 {
		t.Error("nothing waits for the approval")
	}
	a.Close()
	eventually(t, "the connection to the server is closed", func() bool { return front.open() == 0 })
}

// A change of the policy takes effect within a second, without a new connection to the server.
func TestPolicy(t *testing.T) {
	n := newNetwork(t)
	a, b := n.join("alpha"), n.join("beta")
	b.serveHTTP(80, "beta")
	eventually(t, "alpha knows beta", func() bool { return len(a.Status().Peers) == 1 })
	if got, err := a.get("http://beta/"); got != "beta" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := n.srv.SetPolicy(t.Context(),
		[]byte(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:81"]}]}`)); err != nil {
		t.Fatal(err)
	}
	refused := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		c, err := a.DialContext(ctx, "tcp", "beta:80")
		if err == nil {
			c.Close()
		}
		return err != nil
	}
	start := time.Now()
	eventually(t, "the policy holds", refused)
	if took := time.Since(start); took > time.Second {
		t.Errorf("the policy held only after %v", took)
	}
}

// homeChooser obeys the rules of the DERP specification, section 8.2.
func TestHomeChooser(t *testing.T) {
	m := &relay.Map{Regions: map[int]*relay.Region{}}
	for id := 1; id <= 3; id++ {
		m.Regions[id] = &relay.Region{RegionID: id, Nodes: []*relay.Node{{Name: fmt.Sprint(id), RegionID: id, HostName: "h"}}}
	}
	ms := func(l ...int) map[int]time.Duration {
		out := make(map[int]time.Duration)
		for i, v := range l {
			if v > 0 {
				out[i+1] = time.Duration(v) * time.Millisecond
			}
		}
		return out
	}
	now := time.Unix(1000, 0)
	c := newHomeChooser()
	for _, step := range []struct {
		what    string
		after   time.Duration
		latency map[int]time.Duration
		heard   time.Duration // ago; 0: never
		want    int
	}{
		{"the fastest", 0, ms(30, 20, 40), 0, 2},
		{"a little faster is not enough", 10 * time.Second, ms(15, 20, 40), 0, 2},
		{"two thirds, but within 10 ms", time.Second, ms(8, 17, 40), 0, 2},
		{"much faster", 400 * time.Second, ms(30, 100, 90), 0, 1},
		{"nothing measured", time.Second, ms(), 0, 1},
		{"home silent, others answer", 400 * time.Second, ms(0, 90, 80), 20 * time.Second, 3},
		{"home not measured, but heard", time.Second, ms(0, 20, 0), time.Second, 3},
		{"home measured, but dead", 400 * time.Second, ms(50, 90, 10), 20 * time.Second, 1},
		{"the best is still excluded", 400 * time.Second, ms(50, 90, 10), 0, 1},
		{"the best is not excluded any more", 400 * time.Second, ms(50, 90, 10), 0, 3},
	} {
		now = now.Add(step.after)
		if step.what == "home measured, but dead" {
			c.exclude(c.home, now.Add(homeExcluded))
		}
		var heard time.Time
		if step.heard > 0 {
			heard = now.Add(-step.heard)
		}
		if got := c.choose(now, m, step.latency, heard); got != step.want {
			t.Errorf("%s: region %d, want %d", step.what, got, step.want)
		}
	}
	delete(m.Regions, 3)
	if got := c.choose(now.Add(time.Hour), m, nil, time.Time{}); got != 1 && got != 2 {
		t.Errorf("the home has left the map: region %d", got)
	}
}

// id returns the server's ID of a node.
func (n *member) id() string {
	m := n.Node.member
	eventually(n.mesh.t, n.name+" has joined", m.hasJoined)
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprint(m.netmap.Self.ID)
}

// admin sends a request to the administration API of the server.
func (n *network) admin(method, path, body string) {
	n.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	w := httptest.NewRecorder()
	n.srv.AdminHandler().ServeHTTP(w, r)
	if w.Code/100 != 2 {
		n.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
}
