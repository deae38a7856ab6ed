package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ginnel/control"
	"ginnel/key"
	"ginnel/relay"
	"ginnel/userstack"
)

// wantBroken checks which step to target is broken, and the texts of the verdict. An empty step
// means that none is.
func (n *member) wantBroken(target string, step Step, text, mend string) Verdict {
	t := n.mesh.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	v := n.Why(ctx, target)
	if v.Target != target || v.Broken != step || !strings.Contains(v.Text, text) || !strings.Contains(v.Mend, mend) ||
		(v.Mend == "") != (step == "") {
		t.Errorf("%s: %+v\nwant %q with %q and %q", target, v, step, text, mend)
	}
	for i, s := range v.Steps {
		if s.Text == "" || (s.State == StepBroken) != (s.Step == step && i == len(v.Steps)-1) {
			t.Errorf("%s: step %+v of %+v", target, s, v)
		}
	}
	return v
}

// steps returns the names of a verdict's steps with their states.
func (v *Verdict) steps() (list []string) {
	for _, s := range v.Steps {
		list = append(list, string(s.Step)+" "+string(s.State))
	}
	return list
}

// A name that must not be resolved has the mend of an address that must not be dialled: nothing is
// wrong with the DNS servers.
func TestWhyNameMayNotLeave(t *testing.T) {
	n := newNetwork(t)
	meshOnly := n.join("alpha", func(c *Config) { c.MeshOnly = true })
	noExit := n.join("beta", func(c *Config) { c.Control.ExitNode = "nosuch" })
	for _, m := range []*member{meshOnly, noExit} {
		eventually(t, m.name+" has joined", func() bool { return len(m.Status().Peers) == 1 })
	}
	meshOnly.wantBroken("www.example.com:80", StepName, "--mesh-only is set", "start the node without --mesh-only")
	noExit.wantBroken("www.example.com:80", StepName, "the exit node is not there", "leave out --exit-node")
	noExit.wantBroken("192.0.2.1:80", StepPolicy, "the exit node is not there", "leave out --exit-node")
}

// The mend names the variable that is read for the scheme of the server's URL. If the URL has the
// wrong scheme, no proxy is missing.
func TestUnreachableMend(t *testing.T) {
	for _, test := range []struct {
		server string
		err    error
		want   string
	}{
		{"https://a.example", control.ErrUnreachable,
			"check that https://a.example can be reached from here; HTTPS_PROXY names a proxy on the way"},
		{"http://a.example", control.ErrUnreachable,
			"check that http://a.example can be reached from here; HTTP_PROXY names a proxy on the way"},
		{"https://a.example", fmt.Errorf("%w: %w", control.ErrUnreachable, control.ErrPlainPort),
			"start the node with the URL that begins with http://"},
	} {
		if got := unreachableMend(test.server, test.err); got != test.want {
			t.Errorf("%s, %v: %q, want %q", test.server, test.err, got, test.want)
		}
	}
}

// In a network with a server and a policy, the first broken step is named, and the steps before it
// are fine.
func TestWhy(t *testing.T) {
	n := newNetwork(t)
	if _, err := n.srv.SetPolicy(t.Context(),
		[]byte(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:80-81"]}]}`)); err != nil {
		t.Fatal(err)
	}
	a, b := n.join("alpha", withProxy, func(c *Config) { c.MeshOnly = true }), n.join("beta")
	b.serveHTTP(80, "beta")
	for _, m := range []*member{a, b} {
		eventually(t, m.name+" has joined",
			func() bool { return len(m.Status().Peers) == 1 && m.Status().State == StateRunning })
	}
	for _, target := range []string{"beta:80", "beta.net.example:80", b.address4().String() + ":80"} {
		v := a.wantBroken(target, "", "", "")
		want := []string{"name fine", "map fine", "policy fine", "online fine", "path fine", "handshake fine", "tcp fine"}
		if !slices.Equal(v.steps(), want) {
			t.Errorf("%s: steps %q, want %q", target, v.steps(), want)
		}
	}
	v := a.wantBroken("beta", "", "", "")
	if want := []string{"name fine", "map fine", "policy unknown", "online fine", "path fine",
		"handshake fine"}; !slices.Equal(v.steps(), want) {
		t.Errorf("without a port: steps %q, want %q", v.steps(), want)
	}
	a.wantBroken("nobody.net.example:80", StepName, "no such name in the mesh", "ginnel status")
	a.wantBroken("beta:http", StepName, `"http" is not a port`, "HOST:PORT")
	a.wantBroken("100.99.99.99:80", StepMap, "100.99.99.99: no peer has this address", "policy hides")
	a.wantBroken("192.0.2.1:80", StepPolicy, "outside the mesh", "--mesh-only")
	allow := `{"action": "accept", "src": ["` + a.address4().String() + `"], "dst": ["` + b.address4().String() + `:443"]}`
	a.wantBroken("beta:443", StepPolicy, "policy does not let this node reach port 443", allow)
	a.wantBroken("beta:81", StepTCP, "nothing listens on port 81 there", "--serve 81=LOCAL")
	a.wantBroken("alpha:80", StepTCP, "this node: nothing listens there", "--serve 80=LOCAL")
	status, _, body := page(t, a.Node, "POST", "/api/v1/why?timeout=2s&target=beta:81", "")
	if err := json.Unmarshal([]byte(body), &v); err != nil || status != 200 || v.Broken != StepTCP || v.Mend == "" {
		t.Errorf("by the API: %d %s", status, body)
	}
	if status, _, body := page(t, a.Node, "POST", "/api/v1/why?timeout=-4s&target=beta:81", ""); status != 400 {
		t.Errorf("a timeout that is none: %d %s", status, body)
	}
	b.Close()
	eventually(t, "the server sees that beta is gone",
		func() bool { p := a.Status().Peers; return len(p) == 1 && p[0].IsOffline() })
	v = a.wantBroken("beta:80", StepOnline, "peer beta: the peer is offline since", "start that node")
	if want := []string{"name fine", "map fine", "policy unknown", "online broken"}; !slices.Equal(v.steps(), want) {
		t.Errorf("offline: steps %q, want %q", v.steps(), want)
	}
	a.wantBroken("beta", StepOnline, "offline", "start that node")
}

// For a node that has not joined, the membership is broken, not the name.
func TestWhyBeforeJoining(t *testing.T) {
	n := newNetwork(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // so that nothing listens there
	a := n.join("alpha", func(c *Config) { c.Control.URL = "http://" + ln.Addr().String() })
	eventually(t, "alpha has tried", func() bool { return strings.Contains(a.Status().Reason, "refused") })
	a.wantBroken("beta:80", StepControl, "refused", ln.Addr().String())
	a.wantBroken("", StepControl, "refused", ln.Addr().String())
	b := n.join("beta", func(c *Config) { c.Control.AuthKey = "" })
	eventually(t, "beta waits", func() bool { return b.Status().State == StateNeedsLogin })
	b.wantBroken("alpha:80", StepLogin, "waiting to be approved at http", "--authkey")
}

// A subnet whose route is not used is a broken map, even if a host on the host's network has the
// address.
func TestWhyUnusedRoute(t *testing.T) {
	n := newNetwork(t)
	policy := `{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}], "autoApprovers": {"routes": {"192.0.2.0/24": ["ann@"]}}}`
	if _, err := n.srv.SetPolicy(t.Context(), []byte(policy)); err != nil {
		t.Fatal(err)
	}
	a := n.join("alpha", func(c *Config) { c.MeshOnly = true })
	n.join("gate", func(c *Config) { c.Control.AdvertiseRoutes = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	eventually(t, "the route is approved", func() bool {
		w := walk{n: a.Node, addr: netip.MustParseAddr("192.0.2.1")}
		return a.Node.member.hasJoined() && w.unusedRouter() == "gate"
	})
	v := a.wantBroken("192.0.2.1:80", StepMap, "192.0.2.1 is behind peer gate, whose routes this node does not use",
		"--accept-routes")
	if want := []string{"name fine", "map broken"}; !slices.Equal(v.steps(), want) {
		t.Errorf("steps %q, want %q", v.steps(), want)
	}
	a.wantBroken("198.51.100.1:80", StepPolicy, "outside the mesh", "--mesh-only")
}

// A peer whose relay cannot be reached, or that does not answer over it, has no path. A peer that
// drops packets is silent.
func TestWhyPath(t *testing.T) {
	m := newMesh(t)
	a, b := m.add("alpha"), m.add("beta")
	b.startReady()
	b.serveHTTP(80, "beta")
	a.startReady()
	m.introduce()
	nm := b.netmap(true)
	nm.Filter = func(f userstack.Flow) bool { return f.Dst.Port() == 80 }
	if err := b.SetMap(nm); err != nil {
		t.Fatal(err)
	}
	a.wantBroken("beta:80", "", "", "")
	a.wantBroken("beta:81", StepTCP, "no answer, though the last WireGuard handshake was", "firewall")
	b.Close()
	a.wantBroken("beta:80", StepPath, "no answer, neither directly nor over its relay test", "ginnel netcheck")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	dead := 901
	nm = a.netmap(true)
	nm.Relays.Regions = map[int]*relay.Region{region: m.relays.Regions[region],
		dead: {RegionID: dead, RegionCode: "dead", Nodes: []*relay.Node{{
			Name: "901a", RegionID: dead, HostName: "127.0.0.1", IPv6: "none", STUNPort: -1,
			DERPPort: ln.Addr().(*net.TCPAddr).Port,
		}}}}
	nm.Peers[0].Region, nm.Peers[0].Endpoints = dead, nil
	if err := a.SetMap(nm); err != nil {
		t.Fatal(err)
	}
	a.wantBroken("beta:80", StepPath, "no connection to its relay dead: ", "HTTPS_PROXY")
}

// For a plain peer, only the handshake shows whether it is there.
func TestWhyPlain(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0") // where nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	m := newMesh(t)
	a := m.add("alpha")
	port := uint16(pc.LocalAddr().(*net.UDPAddr).Port)
	a.start(func(c *Config) {
		c.Map = NetworkMap{Addresses: single(a.addr), Peers: []Peer{
			{Name: "silent", Key: key.NewNodePrivate().Public(), Addresses: single(netip.MustParseAddr("10.9.0.1")), Plain: true,
				Endpoint: Endpoint{Host: "127.0.0.1", Port: port}},
			{Name: "nowhere", Key: key.NewNodePrivate().Public(), Addresses: single(netip.MustParseAddr("10.9.0.2")),
				Plain: true},
		}}
	})
	a.wantBroken("silent:80", StepHandshake, "the peer does not answer at 127.0.0.1:", "check the keys")
	a.wantBroken("nowhere:80", StepPath, "no endpoint is known for it", "Endpoint")
}
