package programs

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	nodepkg "ginnel/node"
)

// outside is an address of the Internet, which in truth the hub has.
var outside = netip.MustParseAddr("198.51.100.9")

// What is behind the routers.
const (
	alphaSubnet = "10.98.1.0/24"
	behindAlpha = "10.98.1.5:8000"
	betaSubnet  = "10.98.2.0/24"
	behindBeta  = "10.98.2.5:8000"
)

// ownApprovers let ann's nodes be routers for half of what there is, and have no say about exit
// nodes.
const ownApprovers = `{
	"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
	"autoApprovers": {"routes": {"10.98.2.0/23": ["ann@"]}},
}`

// answers makes sure that a service is answered from the host that is named, at once.
func answers(t *testing.T, from node, address, want string) {
	t.Helper()
	page := "http://" + address
	if got, err := get("socks5h", fetchLimit, from, page); got != want || err != nil {
		t.Errorf("%s asks for %s: %q, %v, want %q", from.machine().name, page, got, err, want)
	}
	bulk := page + "/bulk"
	if got, err := get("socks5h", fetchLimit, from, bulk); got != bulkText(want) || err != nil {
		t.Errorf("%s asks for %s: %d bytes, %v", from.machine().name, bulk, len(got), err)
	}
}

// comes waits until a service is answered from the host that is named.
func comes(t *testing.T, from node, address, want string) {
	t.Helper()
	page := "http://" + address
	took := eventually(t, fmt.Sprintf("%s reaches %s at %s", from.machine().name, page, want), func() bool {
		got, err := get("socks5h", 2*time.Second, from, page)
		return err == nil && got == want
	})
	t.Logf("%s reaches %s at %s after %v", from.machine().name, page, want, took.Round(time.Millisecond))
	answers(t, from, address, want)
}

// goes waits until a service is not answered, and makes sure that it stays so.
func goes(t *testing.T, from node, address string) {
	t.Helper()
	page := "http://" + address
	passes := func() bool { _, err := get("socks5h", denyLimit, from, page); return err == nil }
	eventually(t, fmt.Sprintf("%s does not reach %s", from.machine().name, page), func() bool { return !passes() })
	if passes() {
		t.Errorf("%s reaches %s again", from.machine().name, page)
	}
}

// leaves waits until a service is no longer asked by way of the host that is named.
func leaves(t *testing.T, from node, address, by string) {
	t.Helper()
	var got string
	eventually(t, fmt.Sprintf("%s does not reach %s by way of %s", from.machine().name, address, by), func() bool {
		got, _ = get("socks5h", fetchLimit, from, "http://"+address)
		return got != by
	})
	t.Logf("%s asks %s from %q now", from.machine().name, address, got)
}

// internet is a service outside that answers with the address that it is asked from.
func internet(t *testing.T) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", netip.AddrPortFrom(outside, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: service(func(r *http.Request) string {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		return from
	})}
	go s.Serve(ln)
	t.Cleanup(func() { s.Close() })
	return ln.Addr().String()
}

// routed is a mesh with a router and exit node of each make, alpha and beta, and a client of each,
// gamma and delta.
func routed(t *testing.T, m *mesh) (alpha *ginnel, beta *tailscaled, gamma *ginnel, delta *tailscaled) {
	t.Helper()
	alpha, beta = newGinnel(t, newHost(t, "alpha", "10.98.1.5")), newTailscaled(t, newHost(t, "beta", "10.98.2.5"))
	alpha.args = []string{"--advertise-routes", alphaSubnet, "--advertise-exit-node"}
	beta.args = []string{"--advertise-routes", betaSubnet, "--advertise-exit-node"}
	gamma, delta = newGinnel(t, newHost(t, "gamma")), newTailscaled(t, newHost(t, "delta"))
	gamma.args = []string{"--accept-routes", "--exit-node", "beta"}
	delta.args = []string{"--accept-routes"}
	m.join(alpha, beta, gamma, delta)
	m.reachAll()
	if s, err := gamma.status(); err != nil || !lacksExit(s) {
		t.Errorf("before the exit node is approved gamma is %q, %q (%v)", s.State, s.Reason, err)
	}
	return alpha, beta, gamma, delta
}

// TestServerRoutes proves that what is behind a router of either make is reached by clients of
// either make on our server, and the Internet by way of an exit node, once that was approved: by
// hand, or by the policy.
func TestServerRoutes(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	s := startOurServer(t, relay)
	s.setPolicy(t, ownApprovers)
	m := newMesh(t, s, relay)
	site := internet(t)
	alpha, beta, gamma, delta := routed(t, m)
	for _, n := range []node{gamma, delta} {
		comes(t, n, behindBeta, "beta")
		goes(t, n, behindAlpha)
	}
	goes(t, gamma, site)
	s.approveRoutes(t, "alpha")
	s.approveRoutes(t, "beta")
	useRoutes(t, site, alpha, beta, gamma, delta)
	goes(t, alpha, behindBeta) // it does not accept routes
	run(t, s.admin("nodes", "routes", "revoke", "alpha"))
	for _, n := range []node{gamma, delta} {
		goes(t, n, behindAlpha)
		answers(t, n, behindBeta, "beta")
	}
	leaves(t, delta, site, alpha.host.addr.String()) // and asks by itself: in user space nothing holds it back
	answers(t, gamma, site, beta.host.addr.String())
}

// TestHeadscaleRoutes proves the same of headscale, where everything is approved by hand.
func TestHeadscaleRoutes(t *testing.T) {
	t.Parallel()
	relay := startDerper(t)
	m := newMesh(t, startHeadscale(t, relay), relay)
	site := internet(t)
	alpha, beta, gamma, delta := routed(t, m)
	for _, n := range []node{gamma, delta} {
		goes(t, n, behindAlpha)
		goes(t, n, behindBeta)
	}
	goes(t, gamma, site)
	m.server.approveRoutes(t, "alpha")
	m.server.approveRoutes(t, "beta")
	useRoutes(t, site, alpha, beta, gamma, delta)
	goes(t, alpha, behindBeta)
}

// leaveBy has a node use an exit node as soon as it knows it for one: a server tells of an approval
// after it has answered.
func leaveBy(t *testing.T, d *tailscaled, exit string) {
	t.Helper()
	var out string
	var err error
	took := eventually(t, d.host.name+" takes "+exit+" for an exit node", func() bool {
		out, err = try(d.cli("set", "--exit-node="+exit))
		return err == nil || !strings.Contains(out, "not advertising an exit node")
	})
	if err != nil {
		t.Fatalf("tailscale set --exit-node=%s: %v\n%s", exit, err, indent(out))
	}
	t.Logf("%s takes %s for an exit node after %v", d.host.name, exit, took.Round(time.Millisecond))
}

// useRoutes reaches what is behind both routers, and a site on the Internet by way of that of the
// other make.
func useRoutes(t *testing.T, site string, alpha *ginnel, beta *tailscaled, gamma *ginnel, delta *tailscaled) {
	t.Helper()
	leaveBy(t, delta, "alpha")
	for _, n := range []node{gamma, delta} {
		comes(t, n, behindAlpha, "alpha")
		comes(t, n, behindBeta, "beta")
	}
	comes(t, gamma, site, beta.host.addr.String())
	if s, err := gamma.status(); err != nil || s.State != nodepkg.StateRunning {
		t.Errorf("with the exit node approved gamma is %q, %q (%v)", s.State, s.Reason, err)
	}
	comes(t, delta, site, alpha.host.addr.String())
}

// routerLimit is how long a client may be without a subnet when a router has lost its power: 15 s
// until the server has noticed, and a fetch that does not end.
const routerLimit = 18 * time.Second

// TestServerDeadRouter proves that of two routers for one subnet, of either make, the other takes
// over when the cable of the elected one is pulled, and that clients of either make notice.
func TestServerDeadRouter(t *testing.T) {
	t.Parallel()
	const subnet, behind = "10.98.4.0/24", "10.98.4.5:8000"
	relay := startGinnelRelay(t)
	s := startOurServer(t, relay)
	m := newMesh(t, s, relay)
	alpha, beta := newGinnel(t, newHost(t, "alpha", "10.98.4.5")), newTailscaled(t, newHost(t, "beta", "10.98.4.5"))
	alpha.args, beta.args = []string{"--advertise-routes", subnet}, []string{"--advertise-routes", subnet}
	gamma, delta := newGinnel(t, newHost(t, "gamma")), newTailscaled(t, newHost(t, "delta"))
	gamma.args, delta.args = []string{"--accept-routes"}, []string{"--accept-routes"}
	m.join(alpha, beta, gamma, delta)
	m.reachAll()
	s.approveRoutes(t, "alpha")
	comes(t, gamma, behind, "alpha")
	s.approveRoutes(t, "beta")
	comes(t, delta, behind, "alpha")
	time.Sleep(10 * time.Second) // both have answered the server by then
	for _, c := range []struct{ dies, takes node }{{alpha, beta}, {beta, alpha}} {
		dies, takes := c.dies.machine(), c.takes.machine()
		dies.plug(false)
		begun := time.Now()
		for _, client := range []node{gamma, delta} {
			comes(t, client, behind, takes.name)
		}
		if took := time.Since(begun); took > routerLimit {
			t.Errorf("%s took %v to take over from %s, want %v at most", takes.name, took, dies.name, routerLimit)
		}
		dies.plug(true)
		eventually(t, dies.name+" is back", func() bool {
			_, err := get("socks5h", fetchLimit, gamma, fmt.Sprintf("http://%s:%d", dies.name, servicePort))
			return err == nil
		})
		time.Sleep(10 * time.Second)
	}
}
