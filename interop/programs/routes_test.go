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

// outside is an address on the emulated internet. The hub has it.
var outside = netip.MustParseAddr("198.51.100.9")

// The subnets behind the routers, and a service in each.
const (
	alphaSubnet = "10.98.1.0/24"
	behindAlpha = "10.98.1.5:8000"
	betaSubnet  = "10.98.2.0/24"
	behindBeta  = "10.98.2.5:8000"
)

// ownApprovers is a policy that approves beta's subnet for nodes of ann, but not alpha's, and no
// exit node.
const ownApprovers = `{
	"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
	"autoApprovers": {"routes": {"10.98.2.0/23": ["ann@"]}},
}`

// mustAnswer checks that a service is answered by the wanted host at the first attempt.
func mustAnswer(t *testing.T, from node, address, want string) {
	t.Helper()
	page := "http://" + address
	if got, err := get("socks5h", fetchLimit, from, page); got != want || err != nil {
		t.Errorf("%s gets %s: %q, %v, want %q", from.machine().name, page, got, err, want)
	}
	bulk := page + "/bulk"
	if got, err := get("socks5h", fetchLimit, from, bulk); got != bulkText(want) || err != nil {
		t.Errorf("%s gets %s: %d bytes, %v", from.machine().name, bulk, len(got), err)
	}
}

// awaitAnswer waits until a service is answered by the wanted host.
func awaitAnswer(t *testing.T, from node, address, want string) {
	t.Helper()
	page := "http://" + address
	took := eventually(t, fmt.Sprintf("%s reaches %s at %s", from.machine().name, page, want), func() bool {
		got, err := get("socks5h", 2*time.Second, from, page)
		return err == nil && got == want
	})
	t.Logf("%s reaches %s at %s after %v", from.machine().name, page, want, took.Round(time.Millisecond))
	mustAnswer(t, from, address, want)
}

// awaitUnreachable waits until a service is unreachable, and checks that it stays so.
func awaitUnreachable(t *testing.T, from node, address string) {
	t.Helper()
	page := "http://" + address
	passes := func() bool { _, err := get("socks5h", denyLimit, from, page); return err == nil }
	eventually(t, fmt.Sprintf("%s does not reach %s", from.machine().name, page), func() bool { return !passes() })
	if passes() {
		t.Errorf("%s reaches %s again", from.machine().name, page)
	}
}

// awaitNotThrough waits until requests for a service no longer go through the host by.
func awaitNotThrough(t *testing.T, from node, address, by string) {
	t.Helper()
	var got string
	eventually(t, fmt.Sprintf("%s does not reach %s through %s", from.machine().name, address, by), func() bool {
		got, _ = get("socks5h", fetchLimit, from, "http://"+address)
		return got != by
	})
	t.Logf("%s now reaches %s from %q", from.machine().name, address, got)
}

// startInternetSite starts a site on the internet that answers with the address of the client.
func startInternetSite(t *testing.T) (address string) {
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

// joinRouters adds a router and exit node of each make, alpha and beta, and a client of each, gamma
// and delta.
func joinRouters(t *testing.T, m *mesh) (alpha *ginnel, beta *tailscaled, gamma *ginnel, delta *tailscaled) {
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

// TestServerRoutes proves that clients of either make on our server reach the subnets of routers of
// either make, and the internet through an exit node, once these are approved by hand or by the
// policy.
func TestServerRoutes(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	s := startOurServer(t, relay)
	s.setPolicy(t, ownApprovers)
	m := newMesh(t, s, relay)
	site := startInternetSite(t)
	alpha, beta, gamma, delta := joinRouters(t, m)
	for _, n := range []node{gamma, delta} {
		awaitAnswer(t, n, behindBeta, "beta")
		awaitUnreachable(t, n, behindAlpha)
	}
	awaitUnreachable(t, gamma, site)
	s.approveRoutes(t, "alpha")
	s.approveRoutes(t, "beta")
	useRoutes(t, site, alpha, beta, gamma, delta)
	awaitUnreachable(t, alpha, behindBeta) // alpha does not accept routes
	run(t, s.admin("nodes", "routes", "revoke", "alpha"))
	for _, n := range []node{gamma, delta} {
		awaitUnreachable(t, n, behindAlpha)
		mustAnswer(t, n, behindBeta, "beta")
	}
	// Delta now sends directly: in userspace mode nothing stops that.
	awaitNotThrough(t, delta, site, alpha.host.addr.String())
	mustAnswer(t, gamma, site, beta.host.addr.String())
}

// TestHeadscaleRoutes proves the same for headscale, where all routes are approved by hand.
func TestHeadscaleRoutes(t *testing.T) {
	t.Parallel()
	relay := startDerper(t)
	m := newMesh(t, startHeadscale(t, relay), relay)
	site := startInternetSite(t)
	alpha, beta, gamma, delta := joinRouters(t, m)
	for _, n := range []node{gamma, delta} {
		awaitUnreachable(t, n, behindAlpha)
		awaitUnreachable(t, n, behindBeta)
	}
	awaitUnreachable(t, gamma, site)
	m.server.approveRoutes(t, "alpha")
	m.server.approveRoutes(t, "beta")
	useRoutes(t, site, alpha, beta, gamma, delta)
	awaitUnreachable(t, alpha, behindBeta)
}

// useExitNode makes a node use an exit node. It waits until the node knows that the exit node is
// approved, because the server answers an approval before it tells the nodes.
func useExitNode(t *testing.T, d *tailscaled, exit string) {
	t.Helper()
	var out string
	var err error
	took := eventually(t, d.host.name+" accepts "+exit+" as an exit node", func() bool {
		out, err = try(d.cli("set", "--exit-node="+exit))
		return err == nil || !strings.Contains(out, "not advertising an exit node")
	})
	if err != nil {
		t.Fatalf("tailscale set --exit-node=%s: %v\n%s", exit, err, indent(out))
	}
	t.Logf("%s accepts %s as an exit node after %v", d.host.name, exit, took.Round(time.Millisecond))
}

// useRoutes checks that both clients reach both subnets, and an internet site through the exit node
// of the other make.
func useRoutes(t *testing.T, site string, alpha *ginnel, beta *tailscaled, gamma *ginnel, delta *tailscaled) {
	t.Helper()
	useExitNode(t, delta, "alpha")
	for _, n := range []node{gamma, delta} {
		awaitAnswer(t, n, behindAlpha, "alpha")
		awaitAnswer(t, n, behindBeta, "beta")
	}
	awaitAnswer(t, gamma, site, beta.host.addr.String())
	if s, err := gamma.status(); err != nil || s.State != nodepkg.StateRunning {
		t.Errorf("with the exit node approved gamma is %q, %q (%v)", s.State, s.Reason, err)
	}
	awaitAnswer(t, delta, site, alpha.host.addr.String())
}

// routerLimit is how long a client may lose a subnet when its router loses its power: 15 s until
// the server notices, and the rest for a fetch that gets no answer.
const routerLimit = 18 * time.Second

// TestServerDeadRouter proves that one of two routers for a subnet, of either make, takes over when
// the link of the elected one goes down, and that clients of either make follow.
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
	awaitAnswer(t, gamma, behind, "alpha")
	s.approveRoutes(t, "beta")
	awaitAnswer(t, delta, behind, "alpha")
	time.Sleep(10 * time.Second) // both have answered the server's probes by then
	for _, c := range []struct{ dies, takes node }{{alpha, beta}, {beta, alpha}} {
		dies, takes := c.dies.machine(), c.takes.machine()
		dies.setLink(linkDown)
		begun := time.Now()
		for _, client := range []node{gamma, delta} {
			awaitAnswer(t, client, behind, takes.name)
		}
		if took := time.Since(begun); took > routerLimit {
			t.Errorf("%s took %v to take over from %s, want %v at most", takes.name, took, dies.name, routerLimit)
		}
		dies.setLink(linkUp)
		eventually(t, dies.name+" is back", func() bool {
			_, err := get("socks5h", fetchLimit, gamma, fmt.Sprintf("http://%s:%d", dies.name, servicePort))
			return err == nil
		})
		time.Sleep(10 * time.Second)
	}
}
