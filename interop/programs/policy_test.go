package programs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// onlyFrom is a policy by which one node may use the service of another, and nothing else may be.
// It takes addresses.
const onlyFrom = `{"acls": [{"action": "accept", "src": ["%s"], "dst": ["%s:8000"]}]} // HuJSON`

// policyDelay is how long a change may take to have effect.
const policyDelay = time.Second

// allow has the server let one node use the service of another, and nothing else.
func (s *ourServer) allow(t *testing.T, from, to node) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.hujson")
	if err := os.WriteFile(file, fmt.Appendf(nil, onlyFrom, from.address(), to.address()), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, s.admin("policy", "set", file))
}

// becomes makes sure that a request of one node to another that begins after policyDelay succeeds,
// or fails.
func becomes(t *testing.T, success bool, from, to node) {
	t.Helper()
	begun := time.Now()
	for {
		asked := time.Since(begun)
		_, err := fetchWithin(2*time.Second, from, to.address().String(), "/")
		if success == (err == nil) {
			t.Logf("%s reaches %s: %v, after %v", from.machine().name, to.machine().name, success, asked.Round(time.Millisecond))
			return
		}
		if asked > policyDelay {
			t.Fatalf("%s reaches %s: %v, want %v (%v)", from.machine().name, to.machine().name, !success, success, err)
		}
	}
}

// TestServerPolicy proves that tailscaled and our node both hold packets from each other to the
// policy of our server, and that a change of it takes effect within a second.
func TestServerPolicy(t *testing.T) {
	t.Parallel()
	relay := startGinnelRelay(t)
	s := startOurServer(t, relay)
	m := newMesh(t, s, relay)
	alpha, beta := newGinnel(t, newHost(t, "alpha")), newTailscaled(t, newHost(t, "beta"))
	m.join(alpha, beta)
	m.reachAll()
	for _, c := range []struct{ from, to node }{{alpha, beta}, {beta, alpha}, {alpha, beta}} {
		s.allow(t, c.from, c.to)
		becomes(t, false, c.to, c.from)
		becomes(t, true, c.from, c.to)
	}
	run(t, s.admin("policy", "delete"))
	m.recovered()
}
