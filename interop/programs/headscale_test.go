package programs

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// headscale is the stock coordination server.
type headscale struct {
	dir     string
	port    uint16
	process *process
}

// headscaleConfig is a format for the address of the server, its directory, and the base domain.
const headscaleConfig = `
server_url: http://%[1]s
listen_addr: %[1]s
metrics_listen_addr: ""
grpc_listen_addr: ""
unix_socket: %[2]s/socket
noise: {private_key_path: %[2]s/noise.key}
prefixes: {v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48"}
database: {type: sqlite, sqlite: {path: %[2]s/db.sqlite}}
derp: {server: {enabled: false}, urls: [], paths: [%[2]s/derp.yaml], auto_update_enabled: false}
dns: {magic_dns: true, base_domain: %[3]s, override_local_dns: false}
disable_check_updates: true
log: {level: info}
`

// headscaleRelay is a format for the region ID, its code, and the relay's address, pin and ports.
const headscaleRelay = `
regions:
  %[1]d:
    regionid: %[1]d
    regioncode: %[2]s
    regionname: Test
    nodes:
      - {name: 1a, regionid: %[1]d, hostname: %[3]s, ipv4: %[3]s, ipv6: none,
         certname: "%[4]s", derpport: %[5]d, stunport: %[6]d}
`

// startHeadscale starts a server with one user and one relay.
func startHeadscale(t *testing.T, r *relayProgram) *headscale {
	t.Helper()
	s := &headscale{dir: t.TempDir(), port: freeTCPPort(t, hub)}
	s.write(t, "config.yaml", fmt.Sprintf(headscaleConfig, hubAddr(s.port), s.dir, baseDomain))
	s.write(t, "derp.yaml", fmt.Sprintf(headscaleRelay, regionID, regionCode, hub, r.pin, r.port, r.stun))
	s.start(t)
	run(t, s.cli("users", "create", "ann"))
	return s
}

func (s *headscale) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// cli runs the program with its configuration, as the server or for its administrator.
func (s *headscale) cli(args ...string) *exec.Cmd {
	cmd := exec.Command(binary("headscale"), append([]string{"-c", filepath.Join(s.dir, "config.yaml")}, args...)...)
	cmd.Env = bareEnvironment(s.dir)
	return cmd
}

func (s *headscale) url() string { return "http://" + hubAddr(s.port) }

func (s *headscale) start(t *testing.T) {
	t.Helper()
	s.process = start(t, "headscale", s.cli("serve"))
	eventually(t, "headscale answers", func() bool {
		r, err := http.Get(s.url() + "/health")
		if err == nil {
			r.Body.Close()
		}
		return err == nil && r.StatusCode == http.StatusOK
	})
}

func (s *headscale) stop(t *testing.T) {
	t.Helper()
	s.process.stop()
}

func (s *headscale) authKey(t *testing.T) string {
	t.Helper()
	var k struct{ Key string }
	s.ask(t, &k, "preauthkeys", "create", "--user", "1", "--reusable", "--expiration", "1h")
	return k.Key
}

// headscaleNode is a node in the output of headscale.
type headscaleNode struct {
	ID              uint64
	GivenName       string `json:"given_name"`
	Online          bool
	AvailableRoutes []string `json:"available_routes"`
}

func (s *headscale) nodes(t *testing.T) (all []headscaleNode) {
	t.Helper()
	s.ask(t, &all, "nodes", "list")
	return all
}

func (s *headscale) members(t *testing.T) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	for _, n := range s.nodes(t) {
		all[n.GivenName] = n.Online
	}
	return all
}

// node returns the node with this name.
func (s *headscale) node(t *testing.T, name string) headscaleNode {
	t.Helper()
	all := s.nodes(t)
	for _, n := range all {
		if n.GivenName == name {
			return n
		}
	}
	t.Fatalf("headscale does not know %s: %+v", name, all)
	return headscaleNode{}
}

func (s *headscale) approveRoutes(t *testing.T, name string) {
	t.Helper()
	n := s.node(t, name)
	run(t, s.cli("nodes", "approve-routes", "--identifier", fmt.Sprint(n.ID),
		"--routes", strings.Join(n.AvailableRoutes, ",")))
}

// expire makes the key of a node expire, so that it has to log in again.
func (s *headscale) expire(t *testing.T, n node) {
	t.Helper()
	run(t, s.cli("nodes", "expire", "--identifier", fmt.Sprint(s.node(t, n.machine().name).ID)))
}

func (s *headscale) ask(t *testing.T, answer any, args ...string) {
	t.Helper()
	out := run(t, s.cli(append(args, "--output", "json")...))
	if err := json.Unmarshal([]byte(out), answer); err != nil {
		t.Fatalf("headscale %v: %v: %s", args, err, out)
	}
}

// TestHeadscale proves that our node joins headscale with a key, and that it and tailscaled reach
// each other's services through their proxies, over derper and then directly.
func TestHeadscale(t *testing.T) {
	t.Parallel()
	relay := startDerper(t)
	m := newMesh(t, startHeadscale(t, relay), relay)
	alpha, beta := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta"))
	m.join(alpha, beta)
	m.exchange()
	m.awaitPaths("relay")
	if got, err := fetchBy("http", fetchLimit, alpha, "beta", "/"); got != "beta" || err != nil {
		t.Errorf("through the HTTP proxy: %q, %v", got, err)
	}
	m.allowDirect()
	m.awaitPaths("direct")
	m.exchange()
	m.awaitPaths("direct")
	m.blockDirect() // the direct paths break
	m.awaitRecovery()
	m.awaitPaths("relay")
}

// TestHeadscaleSurvives proves that our node and tailscaled stay connected after restarts of
// headscale, derper and each other.
func TestHeadscaleSurvives(t *testing.T) {
	testRestarts(t, func(t *testing.T) *mesh {
		relay := startDerper(t)
		return newMesh(t, startHeadscale(t, relay), relay)
	})
}
