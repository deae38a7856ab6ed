package programs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ginnel/relay"
)

// ourServer is our coordination server: the program as it is installed.
type ourServer struct {
	dir     string
	scheme  string
	at      netip.AddrPort
	roots   *x509.CertPool // root certificates of an https server
	args    []string
	process *process
}

// startOurServer starts a server with one user and one relay: r, or the server's own relay on the
// same port if r is nil. Further arguments go to the server.
func startOurServer(t *testing.T, r *relayProgram, more ...string) *ourServer {
	t.Helper()
	s := newOurServer(t, "http", hub)
	if r == nil {
		s.ownRelay(t)
	} else {
		s.args = append(s.args, "--stun", "none", "--relay", "none", "--derp-map", r.writeMap(t, regionID, regionCode))
	}
	s.args = append(s.args, more...)
	s.startFirst(t)
	return s
}

// newOurServer returns a server that is not started yet.
func newOurServer(t *testing.T, scheme string, at netip.Addr) *ourServer {
	t.Helper()
	s := &ourServer{dir: t.TempDir(), scheme: scheme, at: netip.AddrPortFrom(at, freeTCPPort(t, at))}
	s.args = []string{"control", "serve", "--url", s.url(), "--listen", s.at.String(), "--state", s.dir,
		"--base-domain", baseDomain, "--log-level", "debug", "--log-format", "text"}
	return s
}

// ownRelay makes the server a relay and a STUN server too.
func (s *ourServer) ownRelay(t *testing.T) {
	t.Helper()
	s.args = append(s.args, "--stun", netip.AddrPortFrom(s.at.Addr(), freeUDPPort(t, s.at.Addr())).String())
}

// startFirst starts the server for the first time and creates a user.
func (s *ourServer) startFirst(t *testing.T) {
	t.Helper()
	s.start(t)
	run(t, s.admin("users", "create", "ann"))
}

// writeMap writes a file with a relay map of one region and this relay.
func (r *relayProgram) writeMap(t *testing.T, id int, code string) string {
	t.Helper()
	n := &relay.Node{Name: "1a", RegionID: id, HostName: hub.String(), CertName: r.pin, IPv4: hub.String(), IPv6: "none",
		DERPPort: int(r.port), STUNPort: int(r.stun)}
	m := relay.Map{Regions: map[int]*relay.Region{
		id: {RegionID: id, RegionCode: code, RegionName: "Test", Nodes: []*relay.Node{n}},
	}}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "map.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *ourServer) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary("ginnel"), args...)
	cmd.Env = bareEnvironment(s.dir)
	return cmd
}

// admin returns an administration command for the server.
func (s *ourServer) admin(args ...string) *exec.Cmd {
	return s.command(append(append([]string{"control"}, args...), "--state", s.dir)...)
}

func (s *ourServer) url() string { return s.scheme + "://" + s.at.String() }

func (s *ourServer) start(t *testing.T) {
	t.Helper()
	s.process = start(t, "ginnel control", s.command(s.args...))
	s.await(t)
}

// await waits until the server answers.
func (s *ourServer) await(t *testing.T) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots},
		DisableKeepAlives: true}}
	eventually(t, "our server answers", func() bool {
		s.process.mustRun()
		r, err := client.Get(s.url() + "/healthz")
		if err == nil {
			r.Body.Close()
		}
		return err == nil && r.StatusCode == http.StatusOK
	})
}

func (s *ourServer) stop(t *testing.T) {
	t.Helper()
	s.process.stop()
}

func (s *ourServer) authKey(t *testing.T) string {
	t.Helper()
	return s.key(t, "--user", "ann", "--reusable")
}

// key makes an auth key for the given options.
func (s *ourServer) key(t *testing.T, more ...string) string {
	t.Helper()
	return strings.TrimSpace(run(t, s.admin(append([]string{"keys", "create"}, more...)...)))
}

func (s *ourServer) members(t *testing.T) map[string]bool {
	t.Helper()
	var nodes []struct {
		Name   string
		Online bool
	}
	out := run(t, s.admin("nodes", "list", "--json"))
	if err := json.Unmarshal([]byte(out), &nodes); err != nil {
		t.Fatalf("listing nodes: %v: %s", err, out)
	}
	all := make(map[string]bool)
	for _, n := range nodes {
		all[n.Name] = n.Online
	}
	return all
}

func (s *ourServer) approveRoutes(t *testing.T, node string) {
	t.Helper()
	run(t, s.admin("nodes", "routes", "approve", node))
}

// TestServer proves that tailscaled joins our server and reaches our node and another tailscaled by
// name, over our relay and then directly, and that the tailscale command shows the expected state.
func TestServer(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	m := newMesh(t, startOurServer(t, relay), relay)
	alpha := newGinnel(t, newHost(t, "alpha"))
	beta, gamma := newTailscaled(t, newHost(t, "beta")), newTailscaled(t, newHost(t, "gamma"))
	m.join(alpha, beta, gamma)
	m.exchange()
	m.awaitPaths("relay")
	checkCommands(t, beta, "relay")
	m.allowDirect()
	m.awaitPaths("direct")
	m.exchange()
	m.awaitPaths("direct")
	checkCommands(t, beta, "direct")
}

// TestServerSurvives proves that tailscaled and our node stay connected after restarts of our
// server, our relay and each other.
func TestServerSurvives(t *testing.T) {
	testRestarts(t, func(t *testing.T) *mesh {
		relay := startGinnelRelay(t)
		return newMesh(t, startOurServer(t, relay), relay)
	})
}

// TestServerAlone proves that one process on one port serves tailscaled and our node as server and
// relay, and that they reconnect after it restarts.
func TestServerAlone(t *testing.T) {
	t.Parallel()
	s := startOurServer(t, nil)
	m := newMesh(t, s, nil)
	beta := newTailscaled(t, newHost(t, "beta"))
	m.join(newGinnel(t, newHost(t, "alpha")), beta)
	m.exchange()
	m.awaitPaths("relay")
	checkDebugDERP(t, beta)
	s.process.kill()
	m.separated()
	s.start(t)
	m.awaitRecovery()
	m.awaitConnected()
	m.awaitPaths("relay")
	m.allowDirect()
	m.awaitPaths("direct")
	m.exchange()
}
